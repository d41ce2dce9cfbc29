"""The usage list: one row for each workload that ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubetune_devcluster.cml.server.clock import text
from kubetune_devcluster.cml.server.records import USER, Project, Run
from kubetune_devcluster.cml.server.statuses import FAILED, STOPPED, TIMEDOUT, short

_REASONS = {FAILED: "Error", STOPPED: "Error", TIMEDOUT: "DeadlineExceeded"}


def usage_row(run: Run, project: Project, url: str) -> dict[str, Any]:
    """The row of an ended run; ``run.usage`` overrides its fields, also inside ``k8s_info``."""
    code = run.exit_code
    if not code and run.status == FAILED:
        code = 1
    reason = _REASONS.get(run.status, "Completed")
    person = {"id": 12, "name": USER["name"], "user_name": USER["username"]}
    row: dict[str, Any] = {
        "name": run.job_name,
        "creator": USER["username"],
        "group": "",
        "project_name": project.name,
        "cpu": run.settings.get("cpu", 1),
        "memory": run.settings.get("memory", 1),
        "nvidia_gpu": run.settings.get("nvidia_gpu", 0),
        "workload_type": "job",
        "created_at": text(run.created),
        "duration": str(int((run.finished or run.created) - run.created)),
        "status": short(run.status),
        "creator_info": person,
        "group_info": None,
        "project_info": {"id": 3, "slug": project.short()["slug"]},
        "id": run.id,
        "workload_url": f"{url}/{USER['username']}/{project.name}/jobs/{run.job_id}/runs/{run.id}",
        "message": f"Engine exited with status {code}." if code else "",
        "oom_killed": False,
        "k8s_info": {
            "k8s_exit_code": code,
            "k8s_signal": str(run.exit_signal or ""),
            "k8s_reason": reason,
            "k8s_message": "",
        },
    }
    return _merged(row, run.usage)


def _merged(row: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = {**row, **changes}
    if isinstance(changes.get("k8s_info"), Mapping):
        result["k8s_info"] = {**row["k8s_info"], **changes["k8s_info"]}
    return result
