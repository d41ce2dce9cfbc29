"""Runtimes, add-ons, accelerator labels, quotas and usage."""

from __future__ import annotations

from kubetune_devcluster.cml.server.calls import Answer, Call
from kubetune_devcluster.cml.server.errors import RefusalError


def list_runtimes(call: Call) -> Answer:
    return call.page(call.workspace.catalog.runtimes, "runtimes")


def list_runtime_addons(call: Call) -> Answer:
    return call.page(call.workspace.catalog.addons, "runtime_addons")


def list_all_accelerator_node_labels(call: Call) -> Answer:
    if call.workspace.behaviour.no_labels:
        raise RefusalError(5, "Not Found")
    return call.page(call.workspace.catalog.labels, "accelerator_node_label")


def list_users_quota(call: Call) -> Answer:
    workspace = call.workspace
    workspace.settle()
    active = [run.settings for run in workspace.runs.values() if run.active]
    row = workspace.catalog.user_quota(
        sum(settings.get("cpu", 1) for settings in active),
        sum(settings.get("memory", 1) for settings in active),
        sum(settings.get("nvidia_gpu", 0) for settings in active),
    )
    rows = [*workspace.catalog.other_quotas, row]
    return {**call.page(rows, "user_quota"), "total_count": str(len(rows))}


def list_usage(call: Call) -> Answer:
    workspace = call.workspace
    workspace.settle()
    rows = [] if workspace.behaviour.no_usage else workspace.usage
    return {**call.page(rows, "usage_response"), "total_count": str(len(rows))}
