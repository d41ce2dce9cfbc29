"""Chat templates of kubetune's own, for chats with a model whose tokenizer has none.

Each ends an answer with the tokenizer's own end token, so that generation stops whatever other
marks the template has. Jinja as transformers renders it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

ChatTemplateName = Literal["model", "plain", "chatml", "gemma", "mistral"]
MODEL: ChatTemplateName = "model"
"""The template that the Model's tokenizer has."""

_BOS = "{{ bos_token if bos_token and bos_token != eos_token else '' }}"

# What an assistant says, and the calls of tools that it makes.
_SAID = (
    "{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    "{{ '<tool_call>\\n' + ({'name': call.function.name, 'arguments': call.function.arguments}"
    " | tojson) + '\\n</tool_call>' }}{% endfor %}"
)

_PLAIN = (
    _BOS + "{% if tools %}{{ '### Tools:\\n' }}{% for tool in tools %}{{ (tool | tojson) + '\\n' }}"
    "{% endfor %}{{ '\\n' }}{% endif %}"
    "{% for m in messages %}{{ '### ' + (m.role | capitalize) + ':\\n' }}"
    "{% if m.role == 'assistant' %}" + _SAID + "{{ eos_token or '' }}"
    "{% else %}{{ m.content or '' }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)

_CHATML = (
    _BOS + "{% if tools %}{{ '<|im_start|>system\\nTools:\\n' }}{% for tool in tools %}"
    "{{ (tool | tojson) + '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}" + _SAID + "{{ '<|im_end|>' }}"
    "{{ eos_token if eos_token and eos_token != '<|im_end|>' else '' }}"
    "{% else %}{{ (m.content or '') + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# These two know no system turn of their own: it goes before the first turn of the user.
_SYSTEM = (
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role in ['system', 'developer'] %}{% set ns.system = m.content + '\\n\\n' %}"
)

_GEMMA = (
    _BOS + _SYSTEM + "{% elif m.role == 'assistant' %}{{ '<start_of_turn>model\\n' + m.content"
    " + '<end_of_turn>' }}{{ eos_token if eos_token and eos_token != '<end_of_turn>' else '' }}"
    "{{ '\\n' }}"
    "{% elif m.role == 'user' %}{{ '<start_of_turn>user\\n' + ns.system + m.content"
    " + '<end_of_turn>\\n' }}{% set ns.system = '' %}"
    "{% else %}{{ raise_exception('it has no turns of role ' + m.role) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

_MISTRAL = (
    _BOS + _SYSTEM + "{% elif m.role == 'assistant' %}{{ ' ' + m.content + (eos_token or '') }}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + ns.system + m.content + ' [/INST]' }}"
    "{% set ns.system = '' %}"
    "{% else %}{{ raise_exception('it has no turns of role ' + m.role) }}{% endif %}{% endfor %}"
)

CHAT_TEMPLATES: Mapping[ChatTemplateName, str] = {
    "plain": _PLAIN,
    "chatml": _CHATML,
    "gemma": _GEMMA,
    "mistral": _MISTRAL,
}


def chat_template_text(given: str) -> str | None:
    """The template behind a name, or the text itself; None for the model's own."""
    if given == MODEL:
        return None
    return next((text for name, text in CHAT_TEMPLATES.items() if name == given), given)
