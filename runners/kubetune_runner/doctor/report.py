"""What ``python -m kubetune_runner doctor`` prints: each thing that runs need, found or missing."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from kubetune_runner import outcomes
from kubetune_runner.doctor import caches, compiler, gpus
from kubetune_runner.errors import RunError

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "mlflow")
OPTIONAL = {"bitsandbytes": "method qlora and optimizers in 8 bits", "lm_eval": "benchmarks"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    told: str
    """What was found, or what is missing and what to do."""
    missing: bool = False


def report() -> int:
    """Print all findings; returns the exit code, which is 1 where something is missing."""
    caches.settle()
    missing = 0
    for finding in findings():
        missing += finding.missing
        print(f"{'MISSING' if finding.missing else 'ok':8}{finding.name:24}{finding.told}")
    return 1 if missing else 0


def findings() -> Iterator[Finding]:
    """Look for everything."""
    yield Finding("python", f"{platform.python_version()}, as user {os.getuid()}")
    yield from _packages()
    folders = {"TMPDIR": caches.temporary()}
    folders |= {name: caches.folder(name) for name in (caches.DOWNLOADED, *caches.COMPILED)}
    for variable, folder in folders.items():
        problem = caches.unwritable(folder)
        why = f"{folder} can't be written: {problem}"
        yield Finding(variable, why if problem else str(folder), bool(problem))
    found = gpus.ask()
    yield _compiler(found)
    yield from _gpus(found)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        version = _version(name)
        told = version or f"not installed: {outcomes.packages_hint()}"
        yield Finding(name, told, not version)
    for name, purpose in OPTIONAL.items():
        yield Finding(name, _version(name) or f"not installed; {purpose} won't work")
    yield _imported()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _imported() -> Finding:
    """Whether torch finds its libraries, those of the CUDA runtime among them."""
    try:
        import torch
    # A library that is missing is an ImportError or an OSError, others may raise anything.
    except Exception as error:
        return Finding("torch's libraries", f"{type(error).__name__}: {error}", missing=True)
    ones = torch.ones(2, 2)
    total = float((ones @ ones).sum())
    return Finding("torch's libraries", f"loaded; 2x2 ones give {total:g}", total != 8)


def _compiler(found: gpus.Gpus | None) -> Finding:
    """Needed where a GPU is or may come: in an image for GPUs, wherever that is looked at."""
    if not _version("triton"):
        return Finding("C compiler", "not needed without Triton")
    if found is not None and not found.torch:
        return Finding("C compiler", "not needed: torch has no CUDA")
    try:
        compiler.attempt(caches.folder("TRITON_CACHE_DIR"))
    except (RunError, OSError) as error:
        return Finding("C compiler", str(error), missing=True)
    return Finding("C compiler", f"{compiler.found()} compiles launchers, and they run")


def _gpus(found: gpus.Gpus | None) -> Iterator[Finding]:
    if found is None:
        yield Finding("GPUs", "not looked for: torch is missing, or is for GPUs of others")
        return
    if problem := found.problem():
        yield Finding("GPUs", problem.message, missing=True)
        return
    yield Finding("GPUs", found.shown())
    if found.used:
        yield _computed()


def _computed() -> Finding:
    """Whether torch's kernels run on the GPU: a torch without any for its kind fails here."""
    import torch

    try:
        name = torch.cuda.get_device_name()
        ones = torch.ones(2, 2, device="cuda")
        total = float((ones @ ones).sum())
    except Exception as error:
        told = (str(error).splitlines() or [""])[0]
        return Finding("torch on the GPU", f"{type(error).__name__}: {told}", missing=True)
    return Finding("torch on the GPU", f"{name}; 2x2 ones give {total:g}", total != 8)
