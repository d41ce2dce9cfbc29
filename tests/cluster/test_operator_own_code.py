"""Targets that refuse code of users: nothing that brings any is started, whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubetune.api import JsonObject

from tests.cluster.namespace import Namespace, volume
from tests.cluster.support import eventually
from tests.cluster.tenant import OF_KUBETUNE_ALONE, Tenant

pytestmark = pytest.mark.cluster

CODE = "print('mine')"
JOB: JsonObject = {
    "modelRef": {"name": "base"},
    "datasetRef": {"name": "rows"},
    "promptRef": {"name": "ask"},
    "hyperparameters": {"maxSteps": 1},
}
SCRIPT = {"trainer": {"script": {"configMapRef": {"name": "code", "key": "code.py"}}}}
AXOLOTL = {"trainer": {"axolotl": {"config": {"micro_batch_size": 1}}}}
EVALUATION: JsonObject = {
    "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
    "datasetRef": {"name": "rows"},
    "promptRef": {"name": "ask"},
}
FUNCTIONS = [{"name": "mine", "configMapRef": {"name": "code", "key": "code.py"}}]
TASKS = [{"name": "own", "task": "own", "configMapRef": {"name": "code"}}]
TRUSTING = [{"name": "base", "modelRef": {"name": "trusting"}}]
OBJECTS: dict[str, tuple[str, str, JsonObject]] = {
    "script": ("trainer.script", "FineTuneJob", JOB | SCRIPT),
    "script of a profile": (
        "trainer.script",
        "FineTuneJob",
        JOB | {"profileRef": {"name": "code"}},
    ),
    "axolotl": ("trainer.axolotl", "FineTuneJob", JOB | AXOLOTL),
    "code of a model": (
        "spec.trustRemoteCode of Model trusting",
        "FineTuneJob",
        JOB | {"modelRef": {"name": "trusting"}},
    ),
    "metric": (
        "mine of spec.functions",
        "Evaluation",
        EVALUATION | {"metrics": ["mine"], "functions": FUNCTIONS},
    ),
    "task": ("own of spec.tasks", "Evaluation", EVALUATION | {"metrics": ["own"], "tasks": TASKS}),
    "code of a candidate": (
        "spec.trustRemoteCode of Model trusting",
        "Evaluation",
        EVALUATION | {"candidates": TRUSTING, "metrics": ["exactMatch"]},
    ),
}


@pytest.fixture(scope="module")
def user(module_space: Namespace) -> Iterator[Tenant]:
    """Somebody who may write kubetune's kinds, in a namespace whose target refuses code."""
    files = {"code.py": CODE, "own.yaml": "task: own\n"}
    module_space.create("ConfigMap", "code", data=files)
    module_space.create("Model", "trusting", {"source": volume("base"), "trustRemoteCode": True})
    module_space.create("TuningProfile", "code", SCRIPT)
    module_space.ready("Model", "trusting")
    tenant = Tenant(module_space, "user", OF_KUBETUNE_ALONE)
    yield tenant
    tenant.close()


@pytest.fixture(scope="module")
def closed(module_space: Namespace) -> str:
    """A target that refuses code."""
    spec = module_space.target() | {"ownCode": "Refused"}
    module_space.create("ComputeTarget", "closed", spec)
    module_space.ready("ComputeTarget", "closed")
    return "closed"


def started(space: Namespace, kind: str, name: str) -> None:
    eventually(lambda: space.children("Job", name, kind), 60)


@pytest.mark.parametrize("what", OBJECTS)
def test_a_target_that_refuses_code_starts_none(
    jobs: Namespace, user: Tenant, closed: str, what: str
) -> None:
    field, kind, spec = OBJECTS[what]
    name = what.replace(" ", "-")
    here = {"computeTargetRef": {"kind": "ComputeTarget", "name": closed}}
    user.create(kind, name, spec | here)
    message = jobs.stalls(kind, name, "OwnCodeRefused")
    assert message.startswith(field)
    assert f"spec.ownCode of ComputeTarget/{closed} is Refused" in message
    assert not jobs.children("Job", name, kind)
    assert not jobs.children("ConfigMap", name, kind)
    # Where nothing is said, pods are restricted, and code is allowed.
    elsewhere = f"{name}-elsewhere"
    user.create(kind, elsewhere, spec | ({"seed": 7} if kind == "Evaluation" else {}))
    started(jobs, kind, elsewhere)
    jobs.delete(kind, elsewhere)


def test_what_waited_goes_on_when_the_admin_allows_code(jobs: Namespace, user: Tenant) -> None:
    jobs.create("ComputeTarget", "opening", jobs.target() | {"ownCode": "Refused"})
    jobs.ready("ComputeTarget", "opening")
    here = {"computeTargetRef": {"kind": "ComputeTarget", "name": "opening"}}
    user.create("FineTuneJob", "later", JOB | SCRIPT | here)
    jobs.stalls("FineTuneJob", "later", "OwnCodeRefused")
    jobs.patch("ComputeTarget", "opening", {"spec": {"ownCode": "Allowed"}})
    started(jobs, "FineTuneJob", "later")
    jobs.delete("FineTuneJob", "later")


def test_what_brings_no_code_runs_there(jobs: Namespace, user: Tenant, closed: str) -> None:
    here = {"computeTargetRef": {"kind": "ComputeTarget", "name": closed}}
    user.create("FineTuneJob", "plain", JOB | here)
    started(jobs, "FineTuneJob", "plain")
    jobs.delete("FineTuneJob", "plain")
