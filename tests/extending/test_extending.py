"""The recipes of docs/extending.md are complete: a copy of the code works with what they list."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace, condition
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.extending.toys import HERE, ROOT, Checkout, Toy
from tests.runners.conftest import PlanFactory, make_plan, tiny_model

__all__ = ["make_plan", "tiny_model"]

PAGE = (ROOT / "docs/extending.md").read_text()
RECIPES = dict(re.findall(r"^## An? ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TOYS = {
    "kind": "kind",
    "target": "target",
    "objective": "objective",
    "source of rows": "source",
    "metric": "metric",
    "condition": "condition",
}
"""Recipe -> folder of its toy."""
PATH = re.compile(
    r"`((?:operator|runners|devcluster|tests|tools|docs|crds|charts|manifests)/[^`*]+)`"
)


def listed(recipe: str) -> dict[str, set[str]]:
    """Paths that a recipe lists, by what becomes of them: new, changed or made."""
    (block,) = re.findall(r"^```files\n(.*?)^```", RECIPES[recipe], re.MULTILINE | re.DOTALL)
    found: dict[str, set[str]] = {"new": set(), "changed": set(), "made": set()}
    for line in block.splitlines():
        what, path = line.split()
        found[what].add(path)
    return found


def toy_of(recipe: str) -> Toy:
    return Toy(TOYS[recipe])


@pytest.fixture
def checkout(tmp_path: Path, recipe: str) -> Checkout:
    return Checkout(tmp_path / "checkout", toy_of(recipe))


@pytest.mark.parametrize("recipe", TOYS)
def test_a_recipe_lists_the_files_of_its_toy(recipe: str) -> None:
    toy = toy_of(recipe)
    assert listed(recipe)["new"] == toy.new.keys()
    assert listed(recipe)["changed"] == {row.file for row in toy.rows}


@pytest.mark.parametrize("recipe", TOYS)
def test_a_recipe_lists_what_is_generated(checkout: Checkout, recipe: str) -> None:
    slow = {
        path
        for path in listed(recipe)["made"]
        if path.endswith(("trl_arguments.py", "trl_names.py", "trainer-arguments.md"))
    }
    assert checkout.generate() == listed(recipe)["made"] - slow


@pytest.mark.parametrize("recipe", TOYS)
def test_the_code_of_a_recipe_is_that_of_its_toy(recipe: str) -> None:
    toy = toy_of(recipe)
    texts = [*toy.new.values(), "\n".join(row.text for row in toy.rows)]
    there = {line.strip() for text in texts for line in text.splitlines()}
    for block in re.findall(r"^```python\n(.*?)^```", RECIPES[recipe], re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            assert line.strip() in there | {"", "..."}, f"the toy has no line {line!r}"


def test_each_recipe_has_a_toy_and_each_toy_a_recipe() -> None:
    assert RECIPES.keys() == TOYS.keys()
    folders = {path.parent.name for path in HERE.glob("*/rows.toml")}
    assert set(TOYS.values()) == folders


def test_each_path_that_is_named_is_there() -> None:
    added = {path for folder in TOYS.values() for path in Toy(folder).new}
    named = set(PATH.findall(PAGE)) - added
    assert {path for path in named if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("recipe", ["metric", "source of rows", "condition"])
def test_the_copy_can_what_the_recipe_promises(checkout: Checkout, recipe: str) -> None:
    checkout.python(str(toy_of(recipe).folder / "check.py"))


@pytest.mark.training
@pytest.mark.parametrize("recipe", ["objective"])
def test_the_copy_learns_by_the_objective(
    checkout: Checkout, recipe: str, make_plan: PlanFactory, tmp_path: Path
) -> None:
    numbers = {"maxSteps": 12, "learningRate": 0.01, "loggingSteps": 1}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(make_plan(training={"hyperparameters": numbers}).to_json()))
    checkout.python(str(toy_of(recipe).folder / "check.py"), str(plan))


@pytest.mark.cluster
@pytest.mark.parametrize("recipe", ["kind"])
def test_an_operator_of_the_copy_reconciles_the_kind(
    checkout: Checkout, recipe: str, space: Namespace, operator: Operator, cluster: LocalCluster
) -> None:
    checkout.generate()
    crd = checkout.folder / "crds/kubetune.io_reminders.yaml"
    cluster.kubectl("apply", "--server-side", "-f", str(crd))
    path = f"/apis/kubetune.io/v1alpha1/namespaces/{space.namespace}/reminders"
    spec = {"datasetRef": {"name": "rows"}, "rows": 1}
    body = {
        "apiVersion": "kubetune.io/v1alpha1",
        "kind": "Reminder",
        "metadata": {"name": "enough"},
        "spec": spec,
    }

    def reminder() -> tuple[str, str, str]:
        return condition(space.request("GET", f"{path}/enough"), "Ready")

    try:
        operator.start(environment=checkout.environment)
        eventually(lambda: space.try_request("POST", path, body)[0] == 201)
        eventually(lambda: reminder()[:2] == ("False", "DatasetMissing"))
        space.inputs()
        # Nobody touches the Reminder: what it names wakes it.
        eventually(lambda: reminder()[:2] == ("True", "Ready"))
        found = space.request("GET", f"{path}/enough")["status"]["found"]
        assert found == space.get("Dataset", "rows")["status"]["rows"]["train"]
    finally:
        operator.start()
        cluster.kubectl("delete", "crd", "reminders.kubetune.io", "--timeout=60s")
