"""The quickstart: samples, cluster and manifests, up to a FineTuneJob that trains.

``kubetune quickstart`` calls ``start``, then ``quickstart_follow.follow`` until the job ends,
then ``quickstart_results`` to show what came out.
"""

from __future__ import annotations

import json
import re
import string
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubetune
from kubetune.api import yaml_text

from kubetune_devcluster import commands
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.cml import addon as cml
from kubetune_devcluster.errors import LocalClusterError
from kubetune_devcluster.quickstart import on_cml as quickstart_cml

NAMESPACE = "kubetune-quickstart"
JOB = "tickets"
VOLUME = "kubetune-quickstart-samples"
TRAIN_ROWS = 1200
HELD_OUT_ROWS = 128

# Milder than what the small sample model needs, and short: a real model learns the format fast.
HUB_MODEL_HYPERPARAMETERS = {"learningRate": 5e-4, "maxSteps": 60, "perDeviceBatchSize": 8}

Object = dict[str, Any]
Report = Callable[[str, str], None]


@dataclass(frozen=True)
class Started:
    """The job that was made, or found running."""

    job: Object
    note: str
    """What happened to an earlier job of the same name; empty when there was none."""


def start(
    cluster: LocalCluster, model: str | None, report: Report, *, on_cml: bool = False
) -> Started:
    """Bring everything up and apply the manifests.

    ``model`` is a repository of a Hugging Face hub, None for the sample model. ``on_cml`` trains
    in the simulator of a CML workspace, which must be among the cluster's components. Raises
    LocalClusterError when a part fails, naming it and its log.
    """
    samples = cluster.cache / "samples"
    with _samples(samples, sample_model=model is None, report=report) as wait_for_samples:
        cluster.up(report)
        wait_for_samples()
    objects = render(samples, model, on_cml=on_cml)
    job = objects[-1]
    if on_cml:
        report("samples", "uploading")
        cluster.upload_to_cml(quickstart_cml.files(samples))
        report("samples", "ready")
    else:
        _remove_lost_volume(cluster, samples)
    note = _clear_way(cluster, job)
    report("manifests", "applying")
    cluster.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--field-manager=kubetune-quickstart"),
        *("-f", "-"),
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )
    report("manifests", "ready")
    return Started(job, note)


def render(samples: Path, model: str | None, *, on_cml: bool = False) -> list[Object]:
    """The quickstart's objects in the order of their files; the FineTuneJob is the last."""
    objects: list[Object] = []
    for file in sorted(manifests().glob("*.yaml")):
        text = string.Template(file.read_text()).safe_substitute(SAMPLES=str(samples))
        objects += [document.value for document in yaml_text.read(text)]
    if model is not None:
        _use_hub_model(objects, model)
    return quickstart_cml.on_target(objects, cml.TARGET) if on_cml else objects


def object_path(kind: Object | str, name: str | None = None) -> str:
    """The API path of an object of ours in the quickstart's namespace, or of a plural's one."""
    if not isinstance(kind, str):
        name = kind["metadata"]["name"]
        kind = f"{kind['kind'].lower()}s"
    return f"/apis/kubetune.io/v1alpha1/namespaces/{NAMESPACE}/{kind}/{name}"


def finished(job: Object) -> bool:
    """Whether a FineTuneJob has ended, either way."""
    return (job.get("status") or {}).get("phase") in ("Succeeded", "Failed", "Cancelled")


def manifests() -> Path:
    """The quickstart's manifests: in an installed package, else in a checkout."""
    package = Path(kubetune.__file__).parent
    for folder in (
        package / "examples" / "quickstart",
        package.parents[1] / "manifests" / "examples" / "quickstart",
    ):
        if folder.is_dir():
            return folder
    raise LocalClusterError("this installation of kubetune lacks the quickstart's manifests")


def _use_hub_model(objects: list[Object], repo: str) -> None:
    """Train another model: it gets objects and a registered name of its own."""
    slug = re.sub(r"[^a-z0-9]+", "-", repo.lower()).strip("-")[:40].strip("-")
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] == "Model":
            item["metadata"]["name"] = slug
            spec["source"] = {"huggingFace": {"repo": repo}}
        elif item["kind"] == "FineTuneJob":
            item["metadata"]["name"] = f"{JOB}-{slug}"
            spec["modelRef"] = {"name": slug}
            spec["hyperparameters"] |= HUB_MODEL_HYPERPARAMETERS
            spec["output"]["modelName"] = f"{JOB}-{slug}-lora"
            spec["output"]["registry"]["name"] = f"{JOB}-{slug}"


@contextmanager
def _samples(folder: Path, *, sample_model: bool, report: Report) -> Generator[Callable[[], None]]:
    """Make the samples during whatever the block does; it gets a function that waits for them."""
    steps = [
        ["tickets", folder / "tickets/train.jsonl", "--rows", str(TRAIN_ROWS)],
        ["tickets", folder / "tickets/test.jsonl", "--rows", str(HELD_OUT_ROWS), "--held-out"],
    ]
    if sample_model:
        steps.append(["model", folder / "model"])
    maker = _Maker(steps, report)
    maker.start()
    try:
        yield maker.wait
    except BaseException:
        maker.stop()
        raise


class _Maker(threading.Thread):
    """Runs the runner's sample commands one after the other; finished ones do nothing."""

    def __init__(self, steps: list[list[Any]], report: Report) -> None:
        super().__init__(daemon=True)
        self._steps = steps
        self._report = report
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._problem = ""

    def run(self) -> None:
        self._report("samples", "making")
        for step in self._steps:
            command = [sys.executable, "-m", "kubetune_runner.sample", *map(str, step)]
            last = ""
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            ) as self._process:
                assert self._process.stderr is not None
                for line in self._process.stderr:
                    last = line.strip() or last
                    if ": step" in last:
                        self._report("samples", last)
            if self._stopped:
                return
            if self._process.returncode:
                self._problem = f"'{' '.join(command)}' failed: {last}"
                return
        self._report("samples", "ready")

    def wait(self) -> None:
        self.join()
        if self._problem:
            raise LocalClusterError(self._problem)

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.terminate()
        self.join()


def _remove_lost_volume(cluster: LocalCluster, samples: Path) -> None:
    """A volume whose claim was deleted stays Released, and its path can't be changed."""
    volume = cluster.client().read(f"/api/v1/persistentvolumes/{VOLUME}")
    if volume is None:
        return
    bound = (volume.get("status") or {}).get("phase") in ("Bound", "Available", "Pending")
    if not bound or volume["spec"]["local"]["path"] != str(samples):
        _delete(cluster, "persistentvolumeclaim", "samples")
        _delete(cluster, "persistentvolume", VOLUME)


def _clear_way(cluster: LocalCluster, job: Object) -> str:
    """Delete a finished job of the same name with its output Model; what was done, in words."""
    name = job["metadata"]["name"]
    there = cluster.client().read(object_path(job))
    if there is None:
        return ""
    if not finished(there):
        if there["spec"].get("computeTargetRef") != job["spec"].get("computeTargetRef"):
            delete = ("delete", "ftj", name, "-n", NAMESPACE)
            raise LocalClusterError(
                f"FineTuneJob {name} of an earlier quickstart still runs on another target. Wait"
                f" for it, or run: {commands.kubectl(cluster.home, *delete)}"
            )
        return f"FineTuneJob {name} is running already; following it."
    _delete(cluster, "finetunejob", name)
    _delete(cluster, "model", job["spec"]["output"]["modelName"])
    return (
        f"FineTuneJob {name} of an earlier quickstart had ended ({there['status']['phase']}) and"
        " was deleted to train again; its registered versions and MLflow runs are kept."
    )


def _delete(cluster: LocalCluster, kind: str, name: str) -> None:
    cluster.kubectl(
        *("delete", kind, name, "-n", NAMESPACE, "--ignore-not-found", "--wait", "--timeout=60s")
    )
