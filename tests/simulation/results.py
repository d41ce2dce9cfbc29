"""What runs find, by what they are for."""

from __future__ import annotations

from kubetune.api import JsonObject

DATASET_FOUND: JsonObject = {
    "digest": "sha256:d1",
    "splitDigest": "sha256:s1",
    "rows": {"train": 90, "evaluation": 10},
    "columns": [
        {"name": "prompt", "type": "string"},
        {"name": "completion", "type": "string"},
    ],
    "columnsTruncated": False,
    "problems": [],
    "problemCount": 0,
}
MODEL_FOUND: JsonObject = {
    "type": "base",
    "revision": "c0ffee",
    "architecture": "LlamaForCausalLM",
    "modelType": "llama",
    "contextLength": 2048,
    "chatTemplate": True,
}


def evaluation_summary(plan: JsonObject, run_id: str = "", experiment_id: str = "") -> JsonObject:
    """What the run of a candidate has measured."""
    return {
        "metrics": {name: {"value": 0.5} for name in plan["metrics"]},
        "rows": 10,
        "rowsDigest": "sha256:r1",
        "runId": run_id,
        "experimentId": experiment_id,
    }
