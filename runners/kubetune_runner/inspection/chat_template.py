"""A model's chat template, rendered as transformers renders it, without importing that."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from kubetune.api.training.chat_templates import chat_template_text
from kubetune.api.training.families import family_of

from kubetune_runner.text.shown import Render, as_taken

_MARKS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A tag of transformers' own, which adds nothing to the text."""
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def renderer(config: Mapping[str, Any], jinja: str | None, model_type: str | None) -> Render | None:
    """Renders chats by the template of tokenizer_config.json or chat_template.jinja, else by the
    family's; None where that can't be done here.
    """
    text = jinja or _own(config.get("chat_template"))
    text = text or chat_template_text(family_of(model_type).chat_template)
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        return None
    if text is None:
        return None

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def as_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = _now
    try:
        template = environment.from_string(_MARKS.sub("", text))
    except TemplateError:
        return None
    tokens = {name: _text(config.get(name)) for name in _TOKENS}

    def render(messages: Sequence[dict[str, Any]], tools: Sequence[Any] | None) -> str:
        try:
            return template.render(
                messages=as_taken(messages, text),
                tools=list(tools) if tools else None,
                add_generation_prompt=False,
                **tokens,
            )
        except Exception as error:  # a template may raise anything
            raise ValueError(str(error).splitlines()[0][:200] if str(error) else "error") from error

    return render


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _own(given: Any) -> str | None:
    """The template of a configuration; of several, the default one."""
    if isinstance(given, list):
        named = cast("list[dict[str, Any]]", given)
        given = next((one.get("template") for one in named if one.get("name") == "default"), None)
    return given if isinstance(given, str) and given else None


def _text(value: Any) -> str:
    content = cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""
