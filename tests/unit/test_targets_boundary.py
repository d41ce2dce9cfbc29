"""Rules and loop know targets and trackers by their facts: none asks for the name of a type."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubetune.targets import making, table
from kubetune.tracking import facts, sources

PACKAGE = Path(table.__file__).parents[1]
ROOMS = ("targets", "tracking", "clients", "api", "cli", "settings.py")
"""Where types of targets and trackers are at home, are declared, or are set."""
FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in ROOMS
]
NAMES = set(table.FACTS)
ELSEWHERE = NAMES - {"kubernetes"}
"""The other types: the cluster itself is known to all, as what objects come from."""


def references(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines on which a type is named, other than in what people read about the code."""
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in NAMES:
                yield node.lineno, f".{name}"
            case ast.Constant(value=str(text)) if id(node) not in told and is_named(text):
                yield node.lineno, repr(text)
            case ast.Compare(comparators=[ast.Constant(value=value)]) if value in facts.FACTS:
                yield node.lineno, ast.unparse(node)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                if ELSEWHERE & set(name.lower().split("_")):
                    yield node.lineno, name
            case ast.ImportFrom(module=str(module), names=names):
                room = re.match(r"kubetune\.(targets|tracking|clients)\.([a-z]+)", module)
                if room and room[2] in (ELSEWHERE if room[1] == "clients" else NAMES):
                    yield node.lineno, f"{module}: {names[0].name}"
            case _:
                pass


def is_named(text: str) -> bool:
    return text in NAMES or bool(ELSEWHERE & set(re.findall(r"[a-z]+", text.lower())))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_type_is_named(path: Path) -> None:
    assert list(references(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "code",
    [
        "target.cml is not None",
        'target.tracking.type == "mlflow"',
        'message = f"mounted in CML: {claim}"',
        "in_cml = target",
        "from kubetune.targets.cml.backend import CmlBackend",
        "from kubetune.clients.cml_models import Job",
        'target.type in ("kubernetes",)',
    ],
)
def test_a_name_is_found(code: str) -> None:
    assert list(references(ast.parse(code)))


def test_every_type_has_a_row_in_each_table() -> None:
    assert making.MAKERS.keys() == table.FACTS.keys()
    nowhere: Any = SimpleNamespace(cluster=None, cml=None)
    assert sources.sources(nowhere, nowhere).keys() == facts.FACTS.keys()
