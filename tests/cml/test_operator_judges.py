"""What an Evaluation on CML may have sent to a judge: what the target's admin lists, and there."""

from typing import Any

import pytest

from tests.cluster.namespace import condition, phase_of
from tests.cml.lives import RUNNING, staying
from tests.cml.space import TARGET, CmlSpace

pytestmark = pytest.mark.cluster

ADDRESS = "https://judge.example.com/v1"
LISTED = [{"variable": "JUDGE_KEY", "baseUrls": [ADDRESS]}]


def evaluate(space: CmlSpace, name: str, variable: str | None, address: str) -> None:
    judge: dict[str, Any] = {"name": "tone", "baseUrl": address, "model": "large"}
    if variable:
        judge["apiKeySecretRef"] = {"name": "any", "key": variable}
    spec = {
        "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
        "datasetRef": {"name": "rows"},
        "promptRef": {"name": "ask"},
        "judges": [judge],
        "metrics": ["tone"],
    }
    space.scripts[name] = staying(RUNNING)
    space.create("Evaluation", name, spec)


def refused(space: CmlSpace, name: str) -> str:
    """The message of an Evaluation whose judge may not have its key."""
    body = space.until("Evaluation", name, lambda o: condition(o, "Ready")[1] == "JudgeKeyRefused")
    assert space.cml_jobs(name) == []
    return condition(body, "Ready")[2]


def test_only_listed_variables_are_sent_and_only_where_they_may(cml: CmlSpace) -> None:
    cml.inputs()
    evaluate(cml, "platform", "CDSW_APIV2_KEY", "https://listener.example.com")
    assert "spec.cml.judgeKeys doesn't list CDSW_APIV2_KEY" in refused(cml, "platform")
    evaluate(cml, "open", None, ADDRESS)
    cml.until("Evaluation", "open", lambda o: phase_of(o) == "Running")

    evaluate(cml, "later", "JUDGE_KEY", ADDRESS)
    refused(cml, "later")
    cml.patch("ComputeTarget", TARGET, {"spec": {"cml": {"judgeKeys": LISTED}}})
    cml.until("Evaluation", "later", lambda o: phase_of(o) == "Running")
    [job] = cml.cml_jobs("later")
    assert "JUDGE_KEY" in job.environment["KUBETUNE_TOKEN_VARIABLES"]

    evaluate(cml, "elsewhere", "JUDGE_KEY", "https://judge.example.com.evil.example/v1")
    assert f"lists it for {ADDRESS}" in refused(cml, "elsewhere")
