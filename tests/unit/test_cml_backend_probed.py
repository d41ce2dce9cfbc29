"""What a target says about a probe of its CML workspace."""

from typing import Any

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.api.kinds.status_types import CmlAcceleratorDict
from kubetune.targets.cml.probed import WorkspaceProbe, describe, told
from kubetune.targets.values import TargetProbe


def probed(probe: WorkspaceProbe, **cml: Any) -> TargetProbe:
    target = CmlTarget.model_validate(
        {
            "url": "https://ml.example.com",
            "project": "tuning",
            "apiKeySecretRef": {"name": "key"},
            "runtime": {"kernel": "Python 3.11"},
            **cml,
        }
    )
    return told(target, probe)


def test_a_workspace_with_all_that_runs_need() -> None:
    probe = WorkspaceProbe(project_id="p-1", runtime="registry/python:1", variables=("HF_TOKEN",))
    found = probed(probe, requiredVariables=["HF_TOKEN"])
    assert found.reason is None
    assert found.message == "project p-1 answers; runs use registry/python:1"
    assert found.status["workspace"]["projectId"] == "p-1"


def test_variables_that_the_project_lacks_are_a_hint() -> None:
    probe = WorkspaceProbe(project_id="p-1", runtime="r", variables=("OTHER",))
    found = probed(probe, requiredVariables=["WANDB_KEY", "HF_TOKEN"])
    assert found.reason is None
    assert found.message.endswith("does not set WANDB_KEY, HF_TOKEN")


def test_what_is_missing_is_said() -> None:
    probe = WorkspaceProbe(Reason.PROJECT_MISSING, "there is no project 'tuning'")
    found = probed(probe)
    assert (found.reason, found.message) == (probe.reason, probe.message)


def test_a_description_is_bounded_and_says_nothing_of_what_is_not_known() -> None:
    assert describe(WorkspaceProbe()) == {}
    labels: tuple[CmlAcceleratorDict, ...] = tuple(
        {"key": "gpu", "value": str(at)} for at in range(50)
    )
    names = tuple(f"V{at:03}" for at in range(150, 0, -1))
    shown = describe(WorkspaceProbe(project_id="p", accelerators=labels, variables=names))
    assert len(shown["accelerators"]) == 32
    assert shown["variables"] == [f"V{at:03}" for at in range(1, 101)]
    assert "quota" not in shown
