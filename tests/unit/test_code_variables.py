"""Which variables of a run code of users is given, on each type of target."""

from __future__ import annotations

from typing import Any

from backend_objects import request as pod_request
from builders import target
from cml_objects import request as cml_request
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.run.plan import ENV_CODE_VARIABLES
from kubetune.targets.cml.manifests import _environment, cml_target
from kubetune.targets.kubernetes.environment import environment

ENV = [
    {"name": "PLAIN", "value": "1"},
    {"name": "OF_MAP", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
    {"name": "OF_SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
]


def in_cluster(**spec: Any) -> str:
    """What a pod is told."""
    given = target(kubernetes={"image": "runner", "env": ENV}, **spec).spec
    assert given
    entries = environment(pod_request(target=given), "job", None)
    variables = {each["name"]: each.get("value") for each in entries}
    return variables[ENV_CODE_VARIABLES] or ""


def in_cml(**spec: Any) -> str | None:
    """What a job of CML is told."""
    request = cml_request({"env": [{"name": "PLAIN", "value": "1"}]})
    given = request.target.to_json() | spec
    request = cml_request(None, target=ComputeTargetSpec.model_validate(given))
    return _environment(request, cml_target(request), None).get(ENV_CODE_VARIABLES)


def test_runs_are_told_which_variables_code_gets() -> None:
    assert in_cluster() == "PLAIN,OF_MAP"
    assert in_cluster(ownCodeVariables=["OF_SECRET"]) == "PLAIN,OF_MAP,OF_SECRET"
    assert in_cml() == "PLAIN"
    assert in_cml(ownCodeVariables=["WANDB_API_KEY"]) == "PLAIN,WANDB_API_KEY"
