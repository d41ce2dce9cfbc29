"""What a target takes of a workspace's runtimes and accelerators."""

import random
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.cml import RuntimeSelection
from kubetune.api.training.settings import Resources
from kubetune.clients.cml_models import AcceleratorNodeLabel, Runtime, RuntimeAddon
from kubetune.targets.cml.offers import (
    OfferError,
    check_addons,
    choose_accelerator,
    choose_runtime,
    whole,
)


def gpus(count: int, **label: str) -> Resources:
    """GPUs with these labels."""
    return Resources.model_validate({"gpu": count, "gpuLabel": label})


def runtime(version: str, **fields: Any) -> Runtime:
    """A runtime, as the client gives it."""
    given: JsonObject = {
        "image_identifier": f"registry/{version}",
        "kernel": "Python 3.11",
        "edition": "Standard",
        "editor": "PBJ Workbench",
        "full_version": version,
        "status": "ENABLED",
    }
    return Runtime.model_validate(given | fields)


def label(value: str, number: str = "7", most: str = "4") -> AcceleratorNodeLabel:
    """An accelerator label."""
    return AcceleratorNodeLabel(
        id=number, label_key="gpu", label_value=value, max_gpu_per_workload=most
    )


def test_the_newest_enabled_runtime_that_fits_is_taken() -> None:
    wanted = RuntimeSelection(kernel="Python 3.11")
    runtimes = [
        runtime("2025.09.1-b5"),
        runtime("2025.09.1-b12"),
        runtime("2025.10.1-b1", status="DISABLED"),
        runtime("2026.01.1-b1", kernel="Python 3.12"),
        runtime("2025.12.1-b1", status="DEPRECATED"),
        runtime("2025.12.1-b9", editor="JupyterLab"),
        runtime("2025.12.1-b8", edition="Nvidia GPU"),
    ]
    for seed in range(10):
        random.Random(seed).shuffle(runtimes)
        assert choose_runtime(runtimes, wanted) == "registry/2025.09.1-b12"
    gpu = RuntimeSelection(kernel="Python 3.11", edition="Nvidia GPU")
    assert choose_runtime(runtimes, gpu) == "registry/2025.12.1-b8"
    exact = RuntimeSelection(kernel="Python 3.11", version="2025.09.1-b5")
    assert choose_runtime(runtimes, exact) == "registry/2025.09.1-b5"


def test_a_runtime_may_have_unicode_and_lack_fields() -> None:
    own = runtime("1", kernel="Python für alle", edition=None, full_version=None, status=None)
    assert choose_runtime([own], RuntimeSelection(kernel="Python für alle")) == "registry/1"
    with pytest.raises(OfferError, match="Python für alle"):
        choose_runtime([own], RuntimeSelection(kernel="Python"))
    with pytest.raises(OfferError, match="kernels of the workspace: none"):
        choose_runtime([], RuntimeSelection(kernel="Python"))


def test_a_version_of_any_length_is_compared() -> None:
    runtimes = [runtime("9" * 5000), runtime("x" * 5000), runtime("2025.09.1")]
    assert choose_runtime(runtimes, RuntimeSelection(kernel="Python 3.11")).startswith("registry/9")


def test_a_runtime_named_by_its_identifier_must_be_there_and_enabled() -> None:
    runtimes = [runtime("1"), runtime("2", status="RUNTIME_STATUS_DISABLED")]
    assert choose_runtime(runtimes, RuntimeSelection(identifier="registry/1")) == "registry/1"
    with pytest.raises(OfferError, match="registry/2 is disabled"):
        choose_runtime(runtimes, RuntimeSelection(identifier="registry/2"))
    with pytest.raises(OfferError, match="not among the 2 runtimes"):
        choose_runtime(runtimes, RuntimeSelection(identifier="registry/3"))


def test_a_label_becomes_its_id() -> None:
    labels = [label("a100"), label("h100", "8", most="")]
    assert choose_accelerator(labels, gpus(4, gpu="a100")) == "7"
    # A bound that can't be read is none.
    assert choose_accelerator(labels, gpus(64, gpu="h100")) == "8"
    assert choose_accelerator(labels, Resources(gpu=2)) is None
    assert choose_accelerator(labels, gpus(0, gpu="none")) is None


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (gpus(1, gpu="b200"), "it has gpu: a100"),
        (gpus(5, gpu="a100"), "resources.gpu 5 is above the 4"),
        (gpus(1, gpu="a100", zone="a"), "2 entries"),
    ],
)
def test_a_label_that_is_not_there_is_refused(resources: Resources, says: str) -> None:
    with pytest.raises(OfferError, match=says):
        choose_accelerator([label("a100")], resources)


def test_addons_are_there_and_can_be_used() -> None:
    addons = [
        RuntimeAddon(identifier="hadoop", status="AVAILABLE"),
        RuntimeAddon(identifier="spark", status="DISABLED"),
        RuntimeAddon(identifier="old", status="DEPRECATED"),
    ]
    check_addons(addons, ["hadoop", "old"])
    with pytest.raises(OfferError, match="spark is disabled"):
        check_addons(addons, ["hadoop", "spark"])
    with pytest.raises(OfferError, match="hive is no add-on of the workspace; it has hadoop, old"):
        check_addons(addons, ["hive"])
    with pytest.raises(OfferError, match="it has none"):
        check_addons([], ["hive"])


@pytest.mark.parametrize(
    ("text", "number"), [("8", 8), ("", None), ("-1", None), ("many", None), ("9" * 5000, None)]
)
def test_numbers_come_as_text(text: str, number: int | None) -> None:
    assert whole(text) == number
