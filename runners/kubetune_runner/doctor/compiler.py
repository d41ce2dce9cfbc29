"""Whether launchers of Triton's kernels can be compiled here, as Triton does at run time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from kubetune_runner.errors import RunError

NEEDED = (
    "add gcc, libc6-dev and the headers of its Python to the image, as images/runner has them"
    " (in CML, to the runtime, or choose another one)"
)
NAME = "kubetune_launcher"
SECONDS = 120
SOURCE = f"""
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

static PyObject *launch(PyObject *self, PyObject *arguments) {{
  int64_t number;
  if (!PyArg_ParseTuple(arguments, "L", &number)) return NULL;
  return PyLong_FromLongLong(number + 1);
}}

static PyMethodDef methods[] = {{{{"launch", launch, METH_VARARGS, ""}}, {{NULL, NULL, 0, NULL}}}};
static struct PyModuleDef definition = {{PyModuleDef_HEAD_INIT, "{NAME}", NULL, -1, methods}};
PyMODINIT_FUNC PyInit_{NAME}(void) {{ return PyModule_Create(&definition); }}
"""


def found() -> str:
    """The compiler that Triton would take; empty without one."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or ""


def attempt(folder: Path) -> None:
    """Compile a launcher that launches nothing, load it from the folder and call it.

    Raises RunError CompilerMissing, CompilerFails; OSError when the folder can't be written.
    """
    compiler = found()
    if not compiler:
        raise RunError(
            "CompilerMissing",
            f"there is no C compiler, and Triton compiles with one what a GPU runs: {NEEDED}",
        )
    # A shared file system keeps files that are open, as a loaded module is.
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
        module = _compiled(compiler, Path(scratch))
        try:
            answer = _loaded(module).launch(41)
        except (ImportError, OSError) as error:
            raise RunError(
                "CompilerFails",
                f"what {compiler} compiles into {folder} can't be loaded ({error}): set"
                " TRITON_CACHE_DIR to a folder that programs may be executed from",
            ) from error
    if answer != 42:
        raise RunError(
            "CompilerFails", f"what {compiler} compiles gives {answer} instead of 42: {NEEDED}"
        )


def _compiled(compiler: str, scratch: Path) -> Path:
    source = scratch / "launcher.c"
    source.write_text(SOURCE)
    module = scratch / f"{NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
    # Debian's own scheme leads to a folder without headers.
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    command = [compiler, str(source), "-O3", "-shared", "-fPIC", "-o", str(module), f"-I{headers}"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise RunError(
            "CompilerMissing",
            f"CC is {compiler}, and there is no such program: correct it, or {NEEDED}",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError("CompilerFails", f"{compiler} can't be run ({error}): {NEEDED}") from error
    if ended.returncode:
        told = next((line for line in ended.stderr.splitlines() if "error" in line), "")
        said = told.strip()[:300] or f"exit code {ended.returncode}"
        raise RunError("CompilerFails", f"{compiler} can't compile for Triton ({said}): {NEEDED}")
    return module


def _loaded(module: Path) -> Any:
    specification = importlib.util.spec_from_file_location(NAME, module)
    if specification is None or specification.loader is None:
        raise ImportError(f"{module.name} is no module")
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded
