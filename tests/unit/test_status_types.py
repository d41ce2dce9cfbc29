"""What code says of statuses: its types are those of the models, and no field is without use."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import kubetune
import kubetune.api
import pytest
from kubetune.api.kinds.compute_target.recorded import RecordedTracking, RecordedWorkspace
from kubetune.api.kinds.fine_tune_job.status import RowCounts
from kubetune.api.kinds.inspection import DatasetInspection, ModelInspection
from kubetune.api.kinds.table import KINDS, Kind
from kubetune.api.schema.base import Value

ROOT = Path(__file__).parents[2]
PRODUCT = Path(kubetune.__file__).parent
WRITERS = ("decide", "observe", "act", "targets")
READERS = (*WRITERS, "controllers", "cli")
TAKEN_OVER: tuple[type[Value], ...] = (RecordedWorkspace, RecordedTracking, RowCounts)
"""Parts whose fields are written by the names that their models have."""
FOUND: dict[str, type[Value]] = {"Dataset": DatasetInspection, "Model": ModelInspection}
"""What an inspection finds is taken over as a whole."""
FOR_PEOPLE = {
    "Dataset": "lengths.minimum lengths.median lengths.p95 lengths.buckets.upTo problems.file"
    " problems.field problemCount reportUri",
    "Model": "adapter.alpha adapter.useRslora keyValueHeads tiedEmbeddings sizeBytes license"
    " padTokenFrom adapterRank",
    "PromptTemplate": "slots suggestion",
    "FineTuneJob": "estimate.sequenceLength estimate.rowsPerStep estimate.tokensPerEpoch"
    " estimate.trainableParameters estimate.peakMemory.weights estimate.peakMemory.gradients"
    " estimate.peakMemory.optimizer estimate.peakMemory.activations estimate.peakMemory.logits"
    " estimate.peakMemory.runtime estimate.peakMemory.host estimate.gpuHours external.workspace"
    " progress.done progress.evalLoss progress.learningRate lineage.codeVersion failure"
    " failure.retryable",
    "Evaluation": "data.functionsDigest data.tasksDigest candidates.progress.totalRows"
    " candidates.progress.done progress.candidate candidates.passed candidates.misses promoted"
    " promoted.previous",
    "ComputeTarget": "workspace workspace.projectId workspace.runtime workspace.accelerators"
    " workspace.accelerators.maxPerWorkload workspace.accelerators.free workspace.quota"
    " workspace.variables",
}
"""Fields that the product writes and never reads: people do, with ``kubectl``."""
OTHER_NAMES = {
    # Of metrics, and of what a run says at its end.
    *("train_loss", "eval_loss", "modelId", "artifactPath"),
    # In a tag of a registered version, and of an error of pydantic.
    *("from", "code", "loc", "msg"),
    # Of settings in force, which are free JSON in a status.
    "automatic",
    # Of an in-toto statement with SLSA provenance.
    *("predicate", "runDetails", "byproducts"),
    # Names of kinds, an objective, a loss, a metric and layers.
    *("Model", "ConfigMap", "Secret"),
    *("sft", "exo_pair", "latency", "embed"),
}
OF_KUBERNETES = {
    "metadata",
    "spec",
    "uid",
    "annotations",
    "labels",
    "finalizers",
    "ownerReferences",
    "controller",
    "managedFields",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
}
RECORD = ("external.cml", "external.projectId")
"""Read as a whole, by the models of a record."""
KINDS_WITH_STATUS = [kind for kind in KINDS if kind.status and kind.kind != "ClusterComputeTarget"]


def parts(annotation: Any) -> Iterator[type[Value]]:
    """The models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Value):
        yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


def fields(model: type[Value], path: str = "") -> Iterator[str]:
    """Paths of all fields below a model, but for those of parts that are taken over."""
    for name, field in model.model_fields.items():
        here = f"{path}{field.alias or name}"
        yield here
        for part in parts(field.annotation):
            if part not in TAKEN_OVER:
                yield from fields(part, f"{here}.")


@cache
def keys(folders: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Names of keys that the code of folders reads, and those that it writes."""
    read: set[str] = set()
    written: set[str] = set()
    trees = [
        ast.parse(path.read_text())
        for folder in folders
        for path in (PRODUCT / folder).rglob("*.py")
    ]
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.Dict(keys=names):
                written |= {str(name.value) for name in names if isinstance(name, ast.Constant)}
            case ast.Subscript(slice=ast.Constant(value=str(name)), ctx=context):
                (written if isinstance(context, ast.Store) else read).add(name)
            case ast.Call(func=ast.Attribute(attr=call), args=[ast.Constant(value=str(name)), *_]):
                if call in ("get", "pop", "setdefault"):
                    read.add(name)
                if call == "setdefault":
                    written.add(name)
            case ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()]):
                read.add(name)
            case _:
                pass
    return read, written


def last(path: str) -> str:
    return path.rpartition(".")[2]


def test_the_types_are_those_of_the_models() -> None:
    tool = ROOT / "tools" / "generate_status_types.py"
    subprocess.run([sys.executable, tool, "--check"], check=True)


@pytest.mark.parametrize("kind", KINDS_WITH_STATUS, ids=lambda kind: kind.kind)
def test_each_field_is_written(kind: Kind) -> None:
    """By its name in the code: what nobody ever mentions can't be in a status."""
    assert kind.status is not None
    _, written = keys(WRITERS)
    found = FOUND.get(kind.kind)
    taken_over = set(fields(found)) if found else set[str]()
    assert [
        path for path in fields(kind.status) if last(path) not in written and path not in taken_over
    ] == []


@pytest.mark.parametrize("kind", KINDS_WITH_STATUS, ids=lambda kind: kind.kind)
def test_each_field_is_read_or_for_people(kind: Kind) -> None:
    assert kind.status is not None
    read, _ = keys(READERS)
    records = {f"{place}{name}" for place in ("", "inspection.") for name in RECORD}
    unread = {path for path in fields(kind.status) if last(path) not in read}
    assert unread - records - set(FOR_PEOPLE[kind.kind].split()) == set()


def values(model: type[Value]) -> Iterator[type[Value]]:
    """All models that are derived from one."""
    for derived in model.__subclasses__():
        yield derived
        yield from values(derived)


def test_rules_ask_for_names_that_exist() -> None:
    """The type checker takes a name that isn't there for one whose value is None."""
    for module in pkgutil.walk_packages(kubetune.api.__path__, "kubetune.api."):
        importlib.import_module(module.name)
    known = {
        field.alias or name for model in values(Value) for name, field in model.model_fields.items()
    }
    read, _ = keys(("decide", "observe", "controllers", "act"))
    assert read - known - OF_KUBERNETES - OTHER_NAMES == set()
