"""How MLflow loads a fine-tuned model; this file is stored with every version.

It must run where only torch, transformers, peft and mlflow are installed, so it imports nothing
of kubetune. Evaluation uses the same ``generate``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import weakref
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

ENV_BASE_MODEL = "KUBETUNE_BASE_MODEL"
"""Folder or repository of the base model, instead of the one the adapter names."""
CONFIG_BASE_MODEL = "base_model"
"""The same, as a key of MLflow's model_config."""
IN_CLUSTER = ("pvc://", "project://")
"""How addresses begin that lead to a volume or a project, which only runs see."""
DESCRIPTION = "kubetune.json"
"""File next to the weights: {"dtype", "chat"} with "maxNewTokens" and "answer" (of a chat, the
fields of ``Shape``), or "scores" when it's true."""
PROBES = ("What is red?", "It rains again, and nobody has brought one of the umbrellas along.")
"""Prompts of different lengths."""

CALLS = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)

_WAYS: weakref.WeakKeyDictionary[Any, Ways] = weakref.WeakKeyDictionary()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """How an answer begins and ends."""

    turn: bool = False
    """Whether it is a turn of a chat, where whitespace at its ends is the template's."""
    end_tokens: Sequence[int] = ()
    end_text: str = ""
    """What ends an answer, where the tokenizer has no token for it."""
    before: str = ""
    """What a model says before its answer."""
    opened: str = ""
    closed: str = ""
    """What stands around thoughts."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    *,
    batch: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    shape: Shape | None = None,
) -> list[list[int]]:
    """Continuation of each prompt (token ids), without the prompt and the end token.

    Greedy unless a temperature is given; nothing else that the model's folder says counts.
    """
    import torch
    from transformers import GenerationConfig

    shape, can = shape or Shape(), ways(model, tokenizer)
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    known = [*ends, tokenizer.eos_token_id, *shape.end_tokens]
    stop = sorted({end for end in known if end is not None})
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        # transformers would leave all but 50 tokens out.
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    config = GenerationConfig(
        **sampling,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stop or None,
        use_cache=can.cache,
    )
    options: dict[str, Any] = {}
    if shape.end_text:
        options = {"stop_strings": [shape.end_text], "tokenizer": tokenizer}
    if not can.together:
        batch = 1
    answers: list[list[int]] = [[] for _ in prompts]
    # Prompts of like length share a batch: less padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids, mask = _padded([prompts[index] for index in chosen], tokenizer.pad_token_id)
        with torch.inference_mode(), _settings(model, config):
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=config,
                **options,
            )
        for index, row in zip(chosen, output[:, len(ids[0]) :].tolist(), strict=True):
            length = next((i for i, token in enumerate(row) if token in stop), len(row))
            answers[index] = row[:length]
    return answers


def fit_embeddings(model: Any, adapter: Path) -> None:
    """Give the model as many embeddings as an adapter brings, whose code has resized them.

    peft keeps such embeddings next to the adapter, and loads them into layers of their size only.
    """
    weights = adapter / "adapter_model.safetensors"
    embeddings = model.get_input_embeddings()
    own = next((name for name, module in model.named_modules() if module is embeddings), None)
    if own is None or not weights.is_file():
        return
    from safetensors import safe_open

    # Some embeddings have a norm within.
    within = r"(\.(base_layer|modules_to_save|original_module|default))*"
    kept = re.compile(rf"(^|\.){re.escape(own)}{within}\.weight$")
    with safe_open(str(weights), framework="pt") as file:
        names: list[str] = file.keys()
        sizes = {file.get_slice(name).get_shape()[0] for name in names if kept.search(name)}
    for size in sizes - {embeddings.weight.shape[0]}:
        log.info("the adapter brings %d embeddings, the base has others", size)
        model.resize_token_embeddings(size, mean_resizing=False)


def unembedded(model: Any, tokenizer: Any, rows: Iterable[Sequence[int]]) -> str | None:
    """In words, a token of rows that the model has no embedding for; torch would only fail."""
    size = model.get_input_embeddings().weight.shape[0]
    largest = max((max(ids, default=0) for ids in rows), default=0)
    if largest < size:
        return None
    name = tokenizer.convert_ids_to_tokens(largest)
    return (
        f"the token {name!r}, number {largest:,}, but the model has {size:,} embeddings, numbered"
        " from 0"
    )


@dataclass(frozen=True)
class Ways:
    """How a model can generate: ways that change no answer."""

    together: bool
    """Several prompts in a batch."""
    cache: bool


def ways(model: Any, tokenizer: Any) -> Ways:
    """Checks once whether a prompt gets the same answer in a batch, and with a cache."""
    if model not in _WAYS:
        _WAYS[model] = found = _ways(model, tokenizer)
        if not found.together:
            log.warning("the model answers a prompt differently in a batch: one by one, then")
        if not found.cache:
            log.warning("the model answers differently with a cache: without one, then")
    return _WAYS[model]


def _ways(model: Any, tokenizer: Any) -> Ways:
    import torch
    from transformers import GenerationConfig

    short, long = (tokenizer(text)["input_ids"] for text in PROBES)

    def steps(prompts: list[list[int]], cache: bool) -> tuple[list[int], Any]:
        """The first prompt's tokens, and the scores that each was chosen by."""
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=2,
            min_new_tokens=2,
            pad_token_id=tokenizer.pad_token_id,
            output_logits=True,
            return_dict_in_generate=True,
            use_cache=cache,
        )
        ids, mask = _padded(prompts, tokenizer.pad_token_id)
        with torch.inference_mode(), _settings(model, config):
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=config,
            )
        scores = torch.stack([step[0].float() for step in output.logits])
        return output.sequences[0, len(ids[0]) :].tolist(), scores

    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    tokens, alone = steps([short], False)

    def same(prompts: list[list[int]], cache: bool) -> bool:
        try:
            others, scores = steps(prompts, cache)
        # It may meet anything in a model that knows no padding, or no cache.
        except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
            if "out of memory" in str(error) or "can't allocate memory" in str(error):
                raise
            return False
        # Where the first token is another one by a hair, the second says nothing.
        count = 2 if tokens[0] == others[0] else 1
        apart = (alone[:count] - scores[:count]).abs().max()
        return bool(apart <= tolerance * alone.abs().max())

    cache = same([short], True)
    return Ways(same([short, long], cache), cache)


def _padded(prompts: list[list[int]], pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts filled up at the left, and their masks."""
    width = max(1, *map(len, prompts))
    ids = [[*[pad] * (width - len(prompt)), *prompt] for prompt in prompts]
    return ids, [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]


@contextlib.contextmanager
def _settings(model: Any, config: Any) -> Generator[None]:
    """generate would fill up what isn't set in the configuration from the model's own."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def read(tokenizer: Any, answers: list[list[int]], shape: Shape) -> list[str]:
    """Generated tokens as text: the answer itself, without marks and thoughts."""
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    special = [token for token in tokenizer.all_special_tokens if token in shape.closed]
    if special:
        # Without special tokens nothing would part thoughts and answer.
        for at, ids in enumerate(answers):
            whole = tokenizer.decode(ids, skip_special_tokens=False)
            if shape.closed in whole:
                after = tokenizer(whole.rpartition(shape.closed)[2], add_special_tokens=False)
                texts[at] = tokenizer.decode(after["input_ids"], skip_special_tokens=True)
    return [view(text, shape) for text in texts]


def view(text: str, shape: Shape) -> str:
    """What a turn says, whether it was generated or is one of the data.

    Calls of tools in the form that many templates have are their JSON.
    """
    return CALLS.sub(_call, _without_thoughts(text, shape))


def _call(found: re.Match[str]) -> str:
    try:
        return json.dumps(json.loads(found[1]), ensure_ascii=False)
    except ValueError:
        return found[0]


def _without_thoughts(text: str, shape: Shape) -> str:
    if shape.end_text:
        text = text.partition(shape.end_text)[0]
    if shape.closed and shape.closed in text:
        return text.rpartition(shape.closed)[2].strip()
    if shape.opened and shape.closed and text.lstrip().startswith(shape.opened):
        # Still thinking when the room for the answer was used up.
        return ""
    if shape.before and text.lstrip().startswith(shape.before):
        return text.lstrip().removeprefix(shape.before).strip()
    return text.strip() if shape.turn else text


def score(model: Any, rows: list[list[int]], pad: int, *, batch: int) -> list[float]:
    """The score of each text (token ids)."""
    import torch

    scores: list[float] = []
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        width = max(len(ids) for ids in chosen)
        ids = [[*row, *[pad] * (width - len(row))] for row in chosen]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in chosen]
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
            )
        scores += output.logits[:, 0].float().tolist()
    return scores


class FineTunedModel(PythonModel):
    """Prompts in, generated answers out; or, of a reward model, prompts with answers and scores."""

    def load_context(self, context: Any) -> None:
        """Load tokenizer, base model and adapter, or the whole model."""
        import torch
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        folder = Path(next(iter(context.artifacts.values())))
        self.description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self.scores: bool = self.description.get("scores", False)
        options = {"dtype": getattr(torch, self.description["dtype"])}
        auto: Any = AutoModelForCausalLM
        if self.scores:
            auto = AutoModelForSequenceClassification
            options["num_labels"] = 1
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        if (folder / "adapter_config.json").is_file():
            from peft import PeftModel

            base, revision = _base_model(folder, context.model_config or {})
            model = auto.from_pretrained(base, revision=revision, **options)
            # The end of a text, which its score belongs to, is found by this token.
            model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
            fit_embeddings(model, folder)
            self.model: Any = PeftModel.from_pretrained(model, folder)
        else:
            self.model = auto.from_pretrained(folder, **options)
        self.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    # MLflow would take type hints here for a schema and complain about them.
    def predict(self, context, model_input, params=None):  # pyright: ignore
        """Answers to what ``requests_of`` takes: texts, chats, tables of either.

        Of a reward model the scores of what ``answered_of`` takes: chats, prompts with answers.
        """
        if self.scores:
            rows = [self._whole(one) for one in answered_of(model_input)]
            self._check(rows)
            return score(self.model, rows, self.tokenizer.pad_token_id, batch=8)
        asked = requests_of(model_input)
        limit = (params or {}).get("max_new_tokens") or self.description["maxNewTokens"]
        shape = Shape(**self.description.get("answer", {}))
        prompts = [self._prompt(request) for request in asked]
        self._check(prompts)
        answers: list[list[int]] = [[] for _ in asked]
        for length in {request.limit or limit for request in asked}:
            places = [at for at, one in enumerate(asked) if (one.limit or limit) == length]
            found = generate(
                self.model,
                self.tokenizer,
                [prompts[at] for at in places],
                batch=8,
                max_new_tokens=length,
                shape=shape,
            )
            for at, answer in zip(places, found, strict=True):
                answers[at] = answer
        return read(self.tokenizer, answers, shape)

    def _check(self, rows: list[list[int]]) -> None:
        if what := unembedded(self.model, self.tokenizer, rows):
            raise ValueError(f"the input has {what}: leave the token out")

    def _prompt(self, asked: Request) -> list[int]:
        """What an answer is generated from."""
        if self.description["chat"]:
            turns = asked.turns or [{"role": "user", "content": asked.text}]
            text = self.tokenizer.apply_chat_template(
                turns, tools=asked.tools, tokenize=False, add_generation_prompt=True
            )
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if asked.turns:
            raise ValueError(
                "this model was trained on texts and not on chats: give prompts, such as"
                " predict(['...'])"
            )
        return self._ids([asked.text])[0]

    def _whole(self, given: Answered) -> list[int]:
        """A prompt with its answer, as in training."""
        prompt, answer = given.prompt, given.answer
        if self.description["chat"]:
            turns = given.turns or [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if given.turns:
            raise ValueError(
                "this reward model was trained on texts and not on chats: give prompt and"
                " completion as texts"
            )
        before, ids = self._ids([prompt, f"{prompt}{answer}"])
        if ids[: len(before)] != before:
            ids = before + self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]

    def _ids(self, prompts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(prompts)["input_ids"]
        end = self.tokenizer.eos_token_id
        # One that the text has stays; only the tokenizer's own goes.
        adds_end = end is not None and self.tokenizer("a")["input_ids"][-1:] == [end]
        return [ids[:-1] if adds_end else ids for ids in encoded]


@dataclass(frozen=True)
class Answered:
    """What a score is asked for: a prompt with its answer, or a chat that ends with one."""

    prompt: str = ""
    answer: str = ""
    turns: list[dict[str, Any]] | None = None


_ANSWERED = (
    "a score belongs to an answer: give {'messages': [...]} or a list of turns that ends with the"
    " assistant's, {'prompt': ..., 'completion': ...}, several of them, or a table of either"
)


def answered_of(given: Any) -> list[Answered]:
    """What scores are asked for.

    Raises ValueError or TypeError with what is taken.
    """
    if hasattr(given, "columns"):
        names = [str(name) for name in given.columns]
        wanted = ["messages"] if "messages" in names else ["prompt", "completion"]
        if not set(wanted) <= set(names):
            raise ValueError(f"{_ANSWERED}; this one has the columns {', '.join(names)}")
        cells = zip(*(given[name] for name in wanted), strict=True)
        given = [dict(zip(wanted, row, strict=True)) for row in cells]
    if hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, dict) or _are_turns(given):
        given = [given]
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{_ANSWERED}; this is a {type(given).__name__}")
    return [_answered(one) for one in cast("Sequence[Any]", given)]


def _answered(one: Any) -> Answered:
    one = _chat_or_text(one)
    if _are_turns(one):
        return Answered(turns=_turns(one, answered=True))
    if not isinstance(one, dict):
        raise TypeError(f"{_ANSWERED}; this one is a {type(one).__name__}")
    items = cast("dict[str, Any]", one).items()
    fields = {name: value for name, value in items if value is not None}
    if set(fields) == {"messages"}:
        chat = _chat_or_text(fields["messages"])
        if not _are_turns(chat):
            raise ValueError(f"{_ANSWERED}; these messages are no list of turns with role")
        return Answered(turns=_turns(chat, answered=True))
    if set(fields) != {"prompt", "completion"}:
        raise ValueError(f"{_ANSWERED}; this one has {', '.join(fields) or 'nothing'}")
    prompt, answer = (_chat_or_text(fields[name]) for name in ("prompt", "completion"))
    if not (_are_turns(prompt) or _are_turns(answer)):
        return Answered(str(prompt), str(answer))
    before = prompt if _are_turns(prompt) else [{"role": "user", "content": str(prompt)}]
    after = answer if _are_turns(answer) else [{"role": "assistant", "content": str(answer)}]
    return Answered(turns=_turns([*before, *after], answered=True))


def _chat_or_text(value: Any) -> Any:
    """A cell: a list of turns, also as JSON or as an array, else what it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("["):
        found = _json(value)
        return found if _are_turns(found) else value
    return value


@dataclass(frozen=True)
class Request:
    """One answer that is asked for: of a text, or of the turns of a chat."""

    text: str = ""
    turns: list[dict[str, Any]] | None = None
    tools: list[Any] | None = None
    limit: int | None = None
    """New tokens, where the request has a limit of its own."""


def requests_of(given: Any) -> list[Request]:
    """What is asked for: one or a list of texts, lists of turns, or OpenAI's requests.

    A table has them in a column messages or prompt. Raises ValueError or TypeError with what is
    taken, since anything else would be answered as if its Python form were the question.
    """
    if hasattr(given, "columns"):
        return [_request(one) for one in _cells(given)]
    if hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, (str, dict)) or _are_turns(given):
        given = [given]
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{_TAKEN}; this is a {type(given).__name__}")
    return [_request(one) for one in cast("Sequence[Any]", given)]


_TAKEN = "give a text, a list of turns with role and content, {'messages': [...]}, or several"
_LIMITS = ("max_completion_tokens", "max_tokens", "max_new_tokens")
_KNOWN = ("messages", "prompt", "tools", "model", *_LIMITS)
_HARMLESS: dict[str, Any] = {"temperature": 0, "n": 1, "stream": False}
"""Settings of requests that change nothing, with these values."""


def _cells(table: Any) -> list[Any]:
    names = [str(name) for name in table.columns]
    column = next((name for name in ("messages", "prompt") if name in names), None)
    if column is None and len(names) > 1:
        raise ValueError(f"the table needs a column messages or prompt; it has {', '.join(names)}")
    cells = table[column] if column else table.iloc[:, 0]
    if column == "messages":
        cells = [_json(cell) if isinstance(cell, str) else cell for cell in cells]
    tools = table["tools"] if column == "messages" and "tools" in names else None
    if tools is None:
        return list(cells)
    return [{"messages": chat, "tools": one} for chat, one in zip(cells, tools, strict=True)]


def _are_turns(value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    turns = cast("Sequence[Any]", value)
    return bool(turns) and all(isinstance(turn, dict) and "role" in turn for turn in turns)


def _request(one: Any) -> Request:
    if hasattr(one, "tolist"):
        one = one.tolist()
    if isinstance(one, str):
        return Request(text=one)
    if _are_turns(one):
        return Request(turns=_turns(one))
    if not isinstance(one, dict):
        raise TypeError(f"{_TAKEN}; this one is a {type(one).__name__}")
    one = cast("dict[str, Any]", one)
    others = [name for name, value in one.items() if _counts(name, value)]
    if others or ("messages" in one) == ("prompt" in one):
        what = f"{', '.join(others)}: not taken; " if others else ""
        raise ValueError(f"{what}a request has messages or prompt, tools and {_LIMITS[0]}")
    limit = next((int(one[name]) for name in _LIMITS if one.get(name)), None)
    chat, tools = one.get("messages", one.get("prompt")), one.get("tools")
    found = _request(_json(chat) if isinstance(chat, str) and "messages" in one else chat)
    if isinstance(tools, str):
        tools = _json(tools)
    return Request(found.text, found.turns, list(tools) if tools is not None else None, limit)


def _counts(name: str, value: Any) -> bool:
    return value is not None and name not in _KNOWN and _HARMLESS.get(name, ...) != value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _joined(parts: Sequence[Any]) -> str:
    """The text of a content that is in parts."""
    texts: list[str] = []
    for part in parts:
        text = cast("dict[str, Any]", part).get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise ValueError("a turn has a part that isn't text, which this model can't read")
        texts.append(text)
    return "".join(texts)


def _turns(given: Sequence[Any], *, answered: bool = False) -> list[dict[str, Any]]:
    """The turns as chat templates read them: content as text, arguments of calls as maps.

    The last one is the assistant's if ``answered``, and nobody else's.
    """
    turns: list[dict[str, Any]] = []
    for turn in given:
        content = turn.get("content")
        if isinstance(content, (list, tuple)) or hasattr(content, "tolist"):
            content = _joined(cast("Sequence[Any]", content))
        if not isinstance(content, str) and not turn.get("tool_calls"):
            raise ValueError(f"a turn of {turn['role']} has no content that is text")
        calls = [
            call | {"function": call["function"] | {"arguments": _json(arguments)}}
            if isinstance(arguments := call["function"].get("arguments"), str)
            else call
            for call in turn.get("tool_calls") or ()
        ]
        rest = {name: value for name, value in turn.items() if value is not None}
        turns.append(rest | {"content": content or ""} | ({"tool_calls": calls} if calls else {}))
    ends = turns[-1]["role"] == "assistant"
    if ends and not answered:
        raise ValueError("the last turn is the assistant's already; end with a question")
    if answered and not ends:
        raise ValueError(f"{_ANSWERED}; the last turn here is of {turns[-1]['role']}")
    return turns


def _base_model(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Where the base model is, and its revision."""
    override = config.get(CONFIG_BASE_MODEL) or os.environ.get(ENV_BASE_MODEL)
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    name, revision = override or adapter["base_model_name_or_path"], adapter.get("revision")
    if override:
        revision = None
    if name.startswith(("models:/", "runs:/")):
        from mlflow.artifacts import download_artifacts

        root = Path(download_artifacts(artifact_uri=name))
        return str(next(root.glob("**/config.json")).parent), "main"
    rooted = Path(os.environ.get("KUBETUNE_ROOT", "/")) / name.lstrip("/")
    is_path = name.startswith("/")
    if name.startswith(IN_CLUSTER) or (is_path and not Path(name).is_dir() and not rooted.is_dir()):
        raise FileNotFoundError(
            f"base model {name} is not here: load the model with model_config="
            f"{{'{CONFIG_BASE_MODEL}': FOLDER_OR_REPOSITORY}}, or set {ENV_BASE_MODEL}"
        )
    if is_path:
        return name if Path(name).is_dir() else str(rooted), "main"
    return name, revision or "main"


# Not when the runner imports this file for generate.
if __name__ != "kubetune_runner.mlflow.loader":
    set_model(FineTunedModel())
