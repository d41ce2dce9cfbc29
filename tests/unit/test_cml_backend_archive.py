"""The runner as it is uploaded into a project."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from kubetune.targets.cml.archive import runner


def test_the_archive_is_the_same_twice() -> None:
    first = runner()
    runner.cache_clear()
    assert runner() == first
    digest = first.script_path.removeprefix(".kubetune/run-").removesuffix(".py")
    assert first.archive_path == f".kubetune/kubetune-{digest}.zip"


def test_the_archive_holds_what_runs_import_and_nothing_of_the_operator(tmp_path: Path) -> None:
    names = zipfile.ZipFile(io.BytesIO(runner().archive)).namelist()
    assert "kubetune/__init__.py" in names
    assert "kubetune/api/run/plan.py" in names
    assert "kubetune_runner/training/run.py" in names
    assert not [name for name in names if name.startswith("kubetune/") and "/api/" not in name][1:]
    # Each module of the contract imports from the archive alone.
    archive = tmp_path / "kubetune.zip"
    archive.write_bytes(runner().archive)
    code = (
        "import sys; sys.path = [p for p in sys.path if '/operator' not in p and '/runners' not in"
        " p]; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)];"
        f" sys.path.insert(0, {str(archive)!r});"
        " import kubetune.api.run.plan, kubetune.api.run.outcome, kubetune_runner;"
        " print(kubetune.__file__, kubetune_runner.__file__)"
    )
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert shown.stdout.count(str(archive)) == 2


def test_the_script_is_the_entry_of_the_installed_runner() -> None:
    compile(runner().script, "entry", "exec")
    assert b"kubetune" in runner().script
