"""What is stored with a version loads and answers without kubetune, beside other releases' code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import kubetune_runner.answering
import pytest
from kubetune_runner.mlflow.stored_code import stored_code
from kubetune_runner.mlflow.upload import describe

PACKAGE = Path(kubetune_runner.answering.__file__).parent
LOAD = """
import importlib.abc, json, sys

class WithoutKubetune(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"kubetune", "kubetune_runner"}:
            raise ModuleNotFoundError(f"no module named {name!r} here", name=name)

sys.meta_path.insert(0, WithoutKubetune())
import mlflow

models = [mlflow.pyfunc.load_model(folder) for folder in sys.argv[1:]]
print(json.dumps([list(model.predict(["What is red?"])) for model in models]))
"""


@pytest.mark.training
def test_versions_of_two_releases_answer_side_by_side(tmp_path: Path, tiny_model: Path) -> None:
    import mlflow
    from transformers import AutoModelForCausalLM, AutoTokenizer

    served = tmp_path / "served"
    shutil.copytree(tiny_model, served)
    tokenizer = AutoTokenizer.from_pretrained(served)
    dtype = AutoModelForCausalLM.from_pretrained(served).dtype
    describe(tokenizer, dtype, served, chat=False, max_new_tokens=4)

    older = tmp_path / "older" / "answering"
    shutil.copytree(PACKAGE, older, ignore=shutil.ignore_patterns("__pycache__"))
    with (older / "shape.py").open("a", encoding="utf-8") as file:
        file.write(
            "\n\ndef read(tokenizer, answers, shape):\n    return ['older'] * len(answers)\n"
        )

    folders: list[str] = []
    for package in (PACKAGE, older, PACKAGE):
        folders.append(str(tmp_path / f"stored-{len(folders)}"))
        with stored_code(package) as code:
            mlflow.pyfunc.save_model(
                folders[-1], artifacts={"model": str(served)}, pip_requirements=[], **code
            )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *folders],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, third = json.loads(done.stdout.splitlines()[-1])
    assert second == ["older"]
    assert first == third != second
