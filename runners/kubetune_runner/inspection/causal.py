"""Whether a model says the next token, as far as its configuration tells."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from kubetune_runner.errors import RunError

SEE_AHEAD = frozenset(
    {
        "bert",
        "bert-generation",
        "big_bird",
        "camembert",
        "data2vec-text",
        "electra",
        "ernie",
        "megatron-bert",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roc_bert",
        "roformer",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
"""Types that see what follows a token, unless they are set up as decoders."""
NEVER_CAUSAL = frozenset({"cpmant", "xlm", "xlnet"})
"""Types that see what follows a token, or fill gaps, however they are set up."""
_NAMES = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"


def check(place: str, config: Mapping[str, Any]) -> None:
    """Refuse what can't be trained to say the next token. Raises RunError ModelNotCausal.

    Code that comes with a model may be of any type.
    """
    kind, own = config.get("model_type"), config.get("auto_map")
    if not isinstance(kind, str) or (isinstance(own, dict) and "AutoModelForCausalLM" in own):
        return
    if kind in NEVER_CAUSAL or (kind in SEE_AHEAD and not config.get("is_decoder")):
        raise RunError(
            "ModelNotCausal",
            f"{place} is of type {kind}, whose models see what stands around a token instead of"
            " saying the next one: name a model that was made to generate text, or set is_decoder"
            " in config.json where it is one",
        )
    known = _known()
    if known and kind not in known:
        raise RunError(
            "ModelNotCausal",
            f"{place} is of type {kind}, of which transformers {version('transformers')} has no"
            f" model that continues a text{_other(config)}: name a model that was made to"
            " generate text",
        )


def _other(config: Mapping[str, Any]) -> str:
    names = cast("list[Any]", config.get("architectures") or [])
    return f" (it has {names[0]})" if names else ""


@cache
def _known() -> frozenset[str]:
    """Types of which transformers has a causal model; none where it can't be told.

    They are read from its source: importing it takes seconds, and torch.
    """
    try:
        spec = find_spec("transformers")
        folder = Path((spec.submodule_search_locations or [""])[0]) if spec else None
        if folder is None or not version("transformers"):
            return frozenset()
        source = (folder / "models/auto/modeling_auto.py").read_text(encoding="utf-8")
    except (OSError, PackageNotFoundError, ValueError):
        return frozenset()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == _NAMES for t in node.targets):
            pairs = [n for n in ast.walk(node.value) if isinstance(n, ast.Tuple)]
            return frozenset(
                str(pair.elts[0].value) for pair in pairs if isinstance(pair.elts[0], ast.Constant)
            )
    return frozenset()
