"""What a workspace offers: runtimes, add-ons, accelerator labels, quotas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kubetune_devcluster.cml.server.clock import text
from kubetune_devcluster.cml.server.errors import invalid
from kubetune_devcluster.cml.server.records import USER

_MADE = text(1_767_225_600.0)


def runtime(
    editor: str, edition: str, version: str, status: str = "ENABLED", kernel: str = "Python 3.11"
) -> dict[str, Any]:
    """A runtime; its identifier follows the pattern of Cloudera's images."""
    words = "-".join((editor, kernel.replace(" ", ""), edition)).lower().replace(" ", "")
    return {
        "image_identifier": f"registry.example.com/cloudera/ml-runtime-{words}:{version}",
        "editor": editor,
        "kernel": kernel,
        "edition": edition,
        "description": f"{edition} edition of {kernel} for {editor}",
        "full_version": version,
        "status": status,
        "register_user_id": 0,
    }


def label(key: str, value: str, number: str, gpus: int, per_workload: int) -> dict[str, Any]:
    """A label of nodes with GPUs."""
    return {
        "id": number,
        "label_key": key,
        "label_value": value,
        "availability": True,
        "max_gpu_count": str(gpus),
        "current_gpu_count": "0",
        "max_gpu_per_workload": str(per_workload),
        "created_at": _MADE,
        "updated_at": _MADE,
    }


def quota_row(user: str, used: dict[str, str], configured: dict[str, str]) -> dict[str, Any]:
    """The quota of a user and what of it is in use."""
    page = f"/{user}"
    return {
        "user": {"id": 12, "html_url": page, "url": page, "name": user.title(), "user_name": user},
        "quota_usage": used,
        "quota_configured": configured,
    }


def _runtimes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for editor in ("PBJ Workbench", "JupyterLab"):
        for edition in ("Standard", "Nvidia GPU"):
            found += [
                runtime(editor, edition, "2025.06.1-b5", "DEPRECATED"),
                runtime(editor, edition, "2025.09.1-b5"),
                # Told apart from the one before only by comparing the numbers as numbers.
                runtime(editor, edition, "2025.09.1-b12"),
                runtime(editor, edition, "2026.01.1-b1", "DISABLED"),
            ]
    found.append(runtime("PBJ Workbench", "Standard", "2026.01.1-b1", kernel="R 4.4"))
    return found


def _addons() -> list[dict[str, Any]]:
    return [
        {
            "identifier": "hadoop-cli-7.2.18-hf4",
            "component": "HadoopCLI",
            "display_name": "Hadoop CLI - CDP 7.2.18",
            "status": "AVAILABLE",
            "manageable": True,
            "created_at": _MADE,
            "id": 1,
            "reason": "",
        }
    ]


@dataclass
class Catalog:
    """Rows as the API answers them; tests may change them."""

    runtimes: list[dict[str, Any]] = field(default_factory=_runtimes)
    addons: list[dict[str, Any]] = field(default_factory=_addons)
    labels: list[dict[str, Any]] = field(
        default_factory=lambda: [label("accelerator", "nvidia-a100", "7", gpus=8, per_workload=4)]
    )
    quota: dict[str, str] = field(
        default_factory=lambda: {"cpu": "64", "memory": "512", "nvidia_gpu": "8"}
    )
    other_quotas: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Rows of other users, which an admin's key sees."""

    def runtime(self, identifier: str) -> dict[str, Any]:
        """A runtime, or the refusal that there is none."""
        for runtime in self.runtimes:
            if runtime["image_identifier"] == identifier:
                return runtime
        raise invalid(f"runtime_identifier {identifier} is not a registered runtime")

    def check_runtime(self, identifier: str) -> None:
        """Refuse a runtime that is unknown or disabled."""
        if self.runtime(identifier)["status"] == "DISABLED":
            raise invalid(f"runtime_identifier {identifier} is disabled")

    def check_addons(self, identifiers: list[str]) -> None:
        """Refuse add-ons that are not there."""
        for identifier in identifiers:
            if not any(
                addon["identifier"] == identifier and addon["status"] == "AVAILABLE"
                for addon in self.addons
            ):
                raise invalid(f"runtime addon {identifier} is not available")

    def check_gpus(self, gpus: int, label_id: str) -> None:
        """Refuse a label that is unknown, or more GPUs than one workload may have."""
        if gpus < 0:
            raise invalid(f"nvidia_gpu must not be negative, got {gpus}")
        labels = self.labels
        if label_id not in ("", "0"):
            labels = [one for one in labels if one["id"] == label_id]
            if not labels:
                raise invalid(f"accelerator_label_id {label_id} is not a known label")
        most = max((int(one["max_gpu_per_workload"]) for one in labels), default=0)
        if labels and gpus > most:
            raise invalid(f"nvidia_gpu {gpus} is more than the {most} that a workload may have")

    def user_quota(self, cpu: float, memory: float, gpus: int) -> dict[str, Any]:
        """The quota row of the user, with what active workloads use."""
        used = {"cpu": f"{cpu:g}", "memory": f"{memory:g}", "nvidia_gpu": str(gpus)}
        return quota_row(USER["username"], used, self.quota)
