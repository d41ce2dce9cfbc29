"""What a target says about a probe of its CML workspace."""

from datetime import UTC, datetime
from typing import Any

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.decide.decision import Conditions
from kubetune.decide.target.workspace import WorkspaceProbe, assess, describe

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def assessed(probe: WorkspaceProbe, **cml: Any) -> tuple[bool, dict[str, tuple[str, str, str]]]:
    """Verdict and conditions."""
    target = CmlTarget.model_validate(
        {
            "url": "https://ml.example.com",
            "project": "tuning",
            "apiKeySecretRef": {"name": "key"},
            "runtime": {"kernel": "Python 3.11"},
            **cml,
        }
    )
    conditions = Conditions(1, NOW)
    good = assess(target, probe, conditions)
    told = {
        item["type"]: (item["status"], item["reason"], item["message"])
        for item in conditions.current
    }
    return good, told


def test_a_workspace_with_all_that_runs_need() -> None:
    probe = WorkspaceProbe(project_id="p-1", runtime="registry/python:1", variables=("HF_TOKEN",))
    good, told = assessed(probe, requiredVariables=["HF_TOKEN"])
    assert good
    assert told == {
        "TargetAvailable": (
            "True",
            "TargetAvailable",
            "project p-1 answers; runs use registry/python:1",
        )
    }


def test_variables_that_the_project_lacks_are_a_hint() -> None:
    probe = WorkspaceProbe(project_id="p-1", runtime="r", variables=("OTHER",))
    good, told = assessed(probe, requiredVariables=["WANDB_KEY", "HF_TOKEN"])
    assert good
    assert told["TargetAvailable"][2].endswith("does not set WANDB_KEY, HF_TOKEN")


def test_what_is_missing_is_waited_for() -> None:
    probe = WorkspaceProbe(Reason.PROJECT_MISSING, "there is no project 'tuning'")
    good, told = assessed(probe)
    assert not good
    assert told["TargetAvailable"] == told["Ready"] == ("False", probe.reason, probe.message)
    assert told["Reconciling"][0] == "True"


def test_a_description_is_bounded_and_says_nothing_of_what_is_not_known() -> None:
    assert describe(WorkspaceProbe()) == {}
    labels = tuple({"key": "gpu", "value": str(at)} for at in range(50))
    names = tuple(f"V{at:03}" for at in range(150, 0, -1))
    shown = describe(WorkspaceProbe(project_id="p", accelerators=labels, variables=names))
    assert len(shown["accelerators"]) == 32
    assert shown["variables"] == [f"V{at:03}" for at in range(1, 101)]
    assert "quota" not in shown
