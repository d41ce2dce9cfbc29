"""Bytes of others come in by kubetune.api.bounded; who reads around it stands here, and why."""

import ast
from collections.abc import Iterator
from pathlib import Path

import kubetune
import kubetune_runner
import pytest

OPERATOR, RUNNER = (Path(package.__path__[0]) for package in (kubetune, kubetune_runner))
ROOTS = {"operator": OPERATOR, "runner": RUNNER}

READERS = {
    "json": {"load", "loads", "JSONDecoder"},
    "yaml": {"load", "load_all", "safe_load", "safe_load_all", "full_load", "unsafe_load", "parse",
             "compose", "scan"},
    "zlib": {"decompress", "decompressobj"},
    "gzip": {"open", "decompress", "GzipFile"},
    "bz2": {"open", "decompress", "BZ2File", "BZ2Decompressor"},
    "lzma": {"open", "decompress", "LZMAFile", "LZMADecompressor"},
    "zipfile": {"ZipFile"},
    "tarfile": {"open", "TarFile"},
    "pickle": {"load", "loads", "Unpickler"},
    "marshal": {"load", "loads"},
    "base64": {"b64decode", "b85decode", "a85decode", "b32decode", "urlsafe_b64decode"},
    "ast": {"literal_eval"},
}  # fmt: skip
NAMES = {"from_json", "model_validate_json", "validate_json", "load_from_json", "read_text",
         "read_bytes", "iter_content", "urlopen"}  # fmt: skip
"""Functions and methods that are readers whatever they belong to."""
ANSWERS = {"json", "text", "read"}
"""Awaited methods of aiohttp's answers."""

ALLOWED = {
    "operator/api/bounded.py": "the module itself",
    "operator/api/yaml_text.py": "counts the events of YAML before it makes values of them",
    "operator/api/crd.py": "reads the files that it has written",
    "operator/api/manifests.py": "files of the person who runs the command; yaml_text bounds them",
    "operator/api/run/outcome.py": "handed to bounded.decoded",
    "operator/api/run/plan.py": "handed to bounded.decoded",
    "operator/cli/compare.py": "lines of an artifact that was read within bounds",
    "operator/cli/run_logs.py": "answers of the API server to the person who runs the command",
    "operator/clients/cml_transport.py": "its answers are read by clients.answers",
    "operator/clients/kubernetes.py": "the operator's own API server; deep_objects cuts first",
    "operator/clients/lease.py": "what the kernel says of processes",
    "operator/clients/stored_keys.py": "the operator's own Secret",
    "operator/clients/watching.py": "the operator's own API server; deep_objects cuts first",
    "operator/decide/decision.py": "a copy of what it writes",
    "operator/decide/target/place.py": "a field of a status, as text to be remembered by",
    "operator/observe/packed.py": "what it has packed itself",
    "operator/targets/cml/archive.py": "packs the runner's own files",
    "runner/answering/folder.py": "is stored with a model and imports nothing of kubetune",
    "runner/answering/model.py": "is stored with a model and imports nothing of kubetune",
    "runner/answering/shape.py": "is stored with a model and imports nothing of kubetune",
    "runner/answering/turns.py": "is stored with a model and imports nothing of kubetune",
    "runner/cml_entry.py": "unpacks the runner, before there is anything to import",
    "runner/data/readers.py": "the run's own data, of any size; nesting is a problem of a row",
    "runner/data/sources/http.py": "counts bytes and time into a file",
    "runner/data/strict_json.py": "one row at a time; its caller tells of nesting",
    "runner/data/stored.py": "rows that this run has written, one at a time, of a bounded size",
    "runner/evaluate/judge.py": "counts bytes and time",
    "runner/evaluate/judge_reply.py": "a reply that was read within bounds",
    "runner/evaluate/user_metric_child.py": "the process of the user's own code",
    "runner/inspection/causal.py": "files of installed packages",
    "runner/mlflow/stored_code.py": "stores the runner's own files with a model",
    "runner/mlflow/rest.py": "counts bytes; files of a model are read in pieces",
    "runner/own_code/axolotl.py": "the first line of a file that this run has prepared",
    "runner/own_code/script.py": "compiles the user's own script",
    "runner/sample/model.py": "makes the sample of the quickstart",
    "runner/scores.py": "an answer of the measured model, whose length is bounded",
    "runner/tokenized/keys.py": "the runner's own files",
    "runner/training/trainer.py": "a checkpoint whose seal was checked",
}
"""Files with readers, and why these read what is bounded already or nobody else's."""


def readers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines that read bytes by something else than the module."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {(name.asname or name.name): name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                if name.name in READERS.get(node.module or "", ()):
                    yield node.lineno, f"{node.module}.{name.name}"
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in READERS.get(
                aliases.get(module, ""), ()
            ):
                yield node.lineno, f"{module}.{name}"
            case ast.Attribute(attr=name) if name in NAMES:
                yield node.lineno, name
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                yield node.lineno, name
            case ast.Await(value=ast.Call(func=ast.Attribute(value=owner, attr=name))) if (
                name in ANSWERS and ast.unparse(owner) in ("response", "answer", "reply")
            ):
                yield node.lineno, f"{ast.unparse(owner)}.{name}"
            case ast.Call(func=ast.Attribute(value=owner, attr="json")) if not node.args:
                yield node.lineno, f"{ast.unparse(owner)}.json"
            case _:
                pass


def found() -> dict[str, list[str]]:
    """Readers by file."""
    by_file: dict[str, list[str]] = {}
    for root, package in ROOTS.items():
        for path in sorted(package.rglob("*.py")):
            if lines := [f"{line}: {what}" for line, what in readers(ast.parse(path.read_text()))]:
                by_file[f"{root}/{path.relative_to(package)}"] = lines
    return by_file


FOUND = found()


def test_nobody_reads_around_the_module() -> None:
    assert {path: lines for path, lines in FOUND.items() if path not in ALLOWED} == {}


def test_who_is_allowed_to_does_read() -> None:
    assert ALLOWED.keys() - FOUND.keys() == set()


@pytest.mark.parametrize(
    "code",
    [
        "import json\njson.loads(x)",
        "import json as j\nj.load(x)",
        "from json import loads",
        "import yaml\nyaml.safe_load(x)",
        "import zlib\nzlib.decompress(x)",
        "from gzip import open",
        "import base64\nbase64.b64decode(x)",
        "async def f():\n    await response.text()",
        "value = response.json()",
        "Model.model_validate_json(x)",
        "from pydantic_core import from_json\nfrom_json(x)",
        "path.read_text()",
        "import tarfile\ntarfile.open(x)",
    ],
)
def test_a_reader_is_found(code: str) -> None:
    assert list(readers(ast.parse(code)))
