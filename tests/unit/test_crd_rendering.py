"""The rendered schemas: structural, bounded, described, and free of defaults a profile may set."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubetune.api import crd
from kubetune.api.kinds.table import KINDS, Kind
from kubetune.api.schema.structural import structural_schema
from kubetune.api.training.settings import TrainingSettings
from kubetune.api.training.trl_arguments import TrainerArguments

Schema = dict[str, Any]
KNOWN_KEYS = {
    "type",
    "description",
    "properties",
    "required",
    "items",
    "additionalProperties",
    "enum",
    "default",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-validations",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
}
ARGUMENTS = ".trainer.trl.arguments."
BOUND = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every part of a schema with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from fields(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from fields(schema[key], f"{path}[]")


def is_refused(path: str) -> bool:
    """Whether it is an argument of trl, or in one, that kubetune sets itself."""
    name = path.removeprefix(ARGUMENTS).removesuffix("[]")
    return path.startswith(ARGUMENTS) and name in TrainerArguments.owned


def each_kind(function: Any) -> Any:
    return pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)(function)


@each_kind
def test_only_structural_keywords(kind: Kind) -> None:
    for model in filter(None, (kind.spec, kind.status)):
        for path, schema in fields(structural_schema(model)):
            assert schema.keys() <= KNOWN_KEYS, path
            assert isinstance(schema.get("exclusiveMinimum", True), bool), path
            assert isinstance(schema.get("exclusiveMaximum", True), bool), path


@each_kind
def test_everything_in_a_spec_is_bounded(kind: Kind) -> None:
    """The API server budgets CEL rules by the longest values that a schema allows."""
    unbounded = [
        path
        for path, schema in fields(structural_schema(kind.spec))
        if schema.get("type") in BOUND
        and BOUND[schema["type"]] not in schema
        and not schema.keys() & {"enum", "properties"}
        # a row of a dataset: any columns, bounded by the size of a request
        and not path.endswith(".rows[]")
        # refused, whatever is in it
        and not is_refused(path)
    ]
    assert unbounded == []


@each_kind
def test_bounds_fit_the_type(kind: Kind) -> None:
    for path, schema in fields(structural_schema(kind.spec)):
        for type_name, keyword in BOUND.items():
            assert keyword not in schema or schema["type"] == type_name, path


@each_kind
def test_every_field_is_described(kind: Kind) -> None:
    for model in filter(None, (kind.spec, kind.status)):
        for path, schema in fields(structural_schema(model)):
            # What an argument of trl is, trl says; docs/trainer-arguments.md has a line on each.
            if not path.endswith("[]") and not path.startswith(ARGUMENTS):
                assert schema.get("description", "").endswith("."), path


def test_the_largest_definition_is_small() -> None:
    """Some 60 kB, as the bench has it; a rule for each field would make that twice as much."""
    sizes = {
        kind.kind: len(json.dumps(crd.custom_resource_definition(kind), separators=(",", ":")))
        for kind in KINDS
        if kind.kind == "FineTuneJob"
    }
    assert max(sizes.values()) < 65_000, sizes


@each_kind
def test_parts_that_only_the_operator_writes_are_kept_as_they_are(kind: Kind) -> None:
    if kind.status is None:
        return
    version = crd.custom_resource_definition(kind)["spec"]["versions"][0]
    rendered = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    whole = structural_schema(kind.status)
    assert rendered["properties"].keys() == whole["properties"].keys()
    for name, field in rendered["properties"].items():
        inside = field.get("items", field)
        # Clients of all sorts read conditions.
        assert ("properties" in inside) == (name == "conditions"), name
        if inside["type"] == "object" and name != "conditions":
            assert inside["x-kubernetes-preserve-unknown-fields"] is True
            fields = whole["properties"][name].get("items", whole["properties"][name])
            assert all(each in field["description"] for each in fields.get("properties", ()))


def test_no_default_on_what_a_profile_may_set() -> None:
    assert [
        p for p, schema in fields(structural_schema(TrainingSettings)) if "default" in schema
    ] == []


def test_rendering_twice_gives_the_same_text() -> None:
    assert crd.rendered_files() == crd.rendered_files()


def test_check_names_a_stale_file_and_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path)]
    assert crd.main(output) == 0
    assert crd.main(["--check", *output]) == 0
    stale = tmp_path / "kubetune.io_models.yaml"
    stale.write_text(stale.read_text() + "\n")
    (tmp_path / "kubetune.io_gone.yaml").write_text("")
    assert crd.main(["--check", *output]) == 1
    assert capsys.readouterr().err == (
        "out of date: kubetune.io_gone.yaml, kubetune.io_models.yaml; run `make generate`\n"
    )
    assert crd.main(output) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(crd.rendered_files())
    assert crd.main(["--check", *output]) == 0


def test_the_committed_files_are_up_to_date() -> None:
    assert crd.main(["--check"]) == 0
