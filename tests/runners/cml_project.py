"""A folder that is laid out as a CML project, and runs started in it as a kernel starts them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

from kubetune.api.run import plan as names
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import encode_plan, outcome_path

CHECKOUT = Path(__file__).parents[2]
ENTRY = CHECKOUT / "runners" / "kubetune_runner" / "cml_entry.py"
PACKAGES = sysconfig.get_path("purelib")
SYSTEM_EXIT = 3
"""Exit code of the kernel after a SystemExit of any code."""

KERNEL = f"""
import sys, threading, traceback

thread, script = sys.argv[1], sys.argv[2]
sys.argv = ["/opt/ipykernel_launcher.py", "-f", "/tmp/kernel.json"]
sys.path[0] = ""
codes = []


def cell():
    try:
        with open(script) as stream:
            exec(compile(stream.read(), "<cell>", "exec"), {{"__name__": "__main__"}})
    except SystemExit:
        codes.append({SYSTEM_EXIT})
    except BaseException:
        traceback.print_exc()
        codes.append(1)
    else:
        codes.append(0)


if thread == "main":
    cell()
else:
    worker = threading.Thread(target=cell)
    worker.start()
    worker.join()
sys.exit(codes[0])
"""


def runner_archive(folder: Path) -> Path:
    """The runner as the operator uploads it."""
    temporary = folder / "archive"
    with zipfile.ZipFile(temporary, "w") as archive:
        for root, package in (("operator", "kubetune/api"), ("runners", "kubetune_runner")):
            base = CHECKOUT / root
            for path in sorted((base / package).rglob("*.py")):
                archive.write(path, path.relative_to(base).as_posix())
        archive.write(CHECKOUT / "operator/kubetune/__init__.py", "kubetune/__init__.py")
    digest = hashlib.sha256(temporary.read_bytes()).hexdigest()[:12]
    return temporary.rename(folder / f"kubetune-{digest}.zip")


class Started:
    """A run as a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait(self) -> tuple[int, str]:
        """Exit code of the kernel, and what was printed."""
        output, _ = self.process.communicate(timeout=240)
        return self.process.returncode, output


class Project:
    """A project with the uploaded runner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = folder / names.CML_FOLDER
        own.mkdir(parents=True)
        self.script = own / "run-0.py"
        shutil.copy(ENTRY, self.script)
        self.archive = runner_archive(own)
        self.archive_sha256 = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        self._kernel = folder.with_name("kernel.py")
        self._kernel.write_text(KERNEL)

    def root(self, run_key: str = "key") -> Path:
        """$KUBETUNE_ROOT of a run."""
        return self.folder / names.CML_RUNS_FOLDER / run_key

    def put(self, path: str, content: str, run_key: str = "key") -> None:
        """Upload a file to where a run sees ``path``."""
        target = self.root(run_key) / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)

    def start(
        self,
        plan: dict[str, Any] | str,
        *,
        attempt: int = 1,
        run_key: str = "key",
        packages: str = PACKAGES,
        thread: str = "main",
        **environment: str | None,
    ) -> Started:
        """Start a run; ``packages`` is what is installed, a None in ``environment`` unsets."""
        given: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": packages,
            names.ENV_RUN_KEY: run_key,
            names.ENV_ATTEMPT: str(attempt),
            names.ENV_PLAN_DATA: plan if isinstance(plan, str) else encode_plan(plan),
            names.ENV_RUNNER_ARCHIVE: self.archive.relative_to(self.folder).as_posix(),
            names.ENV_RUNNER_SHA256: self.archive_sha256,
            **environment,
        }
        # Without site, so that nothing of this checkout is importable by chance.
        command = [sys.executable, "-S", str(self._kernel), thread, str(self.script)]
        return Started(
            subprocess.Popen(
                command,
                cwd=self.folder,
                env={name: value for name, value in given.items() if value is not None},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

    def run(self, plan: dict[str, Any] | str, **options: Any) -> tuple[int, str]:
        """Start a run and wait for its end."""
        return self.start(plan, **options).wait()

    def outcome(self, attempt: int = 1, run_key: str = "key") -> Outcome:
        """What a run left in the project."""
        text = (self.folder / outcome_path(run_key, attempt)).read_text()
        outcome = Outcome.from_message(text)
        assert outcome is not None, text
        return outcome


def inline_rows(rows: list[dict[str, Any]]) -> str:
    """Rows as the operator uploads them."""
    return "".join(json.dumps(row) + "\n" for row in rows)
