"""What kstatus makes of generations and conditions, which the operator's status relies on."""

from typing import Any

import pytest
from kstatus import verdicts

pytestmark = pytest.mark.cluster

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("no status at all counts as done", {}, "Current"),
    ("a status of an older spec", {"observedGeneration": 1}, "InProgress"),
    ("not ready yet", {"Ready": "False"}, "InProgress"),
    ("still working", {"Ready": "False", "Reconciling": "True"}, "InProgress"),
    ("given up", {"Ready": "False", "Stalled": "True"}, "Failed"),
    ("done", {"Ready": "True"}, "Current"),
]


def test_verdicts() -> None:
    objects: list[dict[str, Any]] = []
    for _, status, _ in CASES:
        conditions = [
            {"type": kind, "status": value, "reason": "R", "message": "m"}
            for kind, value in status.items()
            if kind != "observedGeneration"
        ]
        generation = status.get("observedGeneration", 2)
        filled = {"observedGeneration": generation, "conditions": conditions} if status else {}
        objects.append(
            {
                "apiVersion": "kubetune.io/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": "a", "namespace": "default", "generation": 2},
                "status": filled,
            }
        )
    found = dict(zip((case for case, _, _ in CASES), verdicts(objects), strict=True))
    assert found == {case: expected for case, _, expected in CASES}
