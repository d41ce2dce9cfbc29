"""Reading manifests: what YAML text means, and what the errors say."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kubetune.api import yaml_text
from kubetune.api.manifests import ManifestError, parse_manifests, read_manifests
from kubetune.cli import main

JOB = """\
apiVersion: kubetune.io/v1alpha1
kind: FineTuneJob
metadata:
  name: tickets
spec:
  modelRef: {name: base}
  datasetRef: {name: tickets}
"""


def value(text: str) -> Any:
    (document,) = yaml_text.read(text)
    return document.value


def refusal(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse_manifests(text, "job.yaml")
    return caught.value.lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("0x1F", 31),
        ("1.0", 1.0),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("'yes'", "yes"),
        ("'1'", "1"),
        ("1e-4x", "1e-4x"),
        ("=", "="),
    ],
)
def test_scalars(text: str, expected: object) -> None:
    read = value(f"a: {text}")["a"]
    assert read == expected
    assert type(read) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: yes\n", "2: unquoted yes is a boolean to kubectl"),
        ("on: 1\n", "1: unquoted on is a boolean to kubectl"),
        ("a: 1\nb: 2\na: 3\n", "3: key 'a' stands twice in one map, first on line 1"),
        ("a: 010\n", "1: unquoted 010 is one number to kubectl"),
        ("a: 1_000\n", "1: unquoted 1_000 is one number to kubectl"),
        ("a: +0o17\n", "1: unquoted +0o17 is one number to kubectl"),
        ("1: a\n", "1: a key must be text; quote it: '1'"),
        ("a: [1\n", "2: not YAML: "),
        ("a: &x [*x]\n", "1: a value that contains itself"),
        ("a: !python/name:os.system x\n", "1: tag !python/name:os.system is not known here"),
        ("a: \x07\n", "1: not YAML: "),
    ],
)
def test_refused_yaml(text: str, message: str) -> None:
    (line,) = refusal(text)
    assert line.startswith(f"job.yaml:{message}")


def test_merge_keys_and_anchors() -> None:
    text = "base: &b {x: 1, y2: 2}\nover:\n  <<: *b\n  x: 3\n"
    assert value(text) == {"base": {"x": 1, "y2": 2}, "over": {"x": 3, "y2": 2}}


def test_several_documents_and_foreign_kinds() -> None:
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: rows}\n"
    manifests = parse_manifests(f"---\n{config_map}---\n{JOB}---\n# nothing\n---\n{JOB}")
    assert [manifest.name for manifest in manifests] == ["tickets", "tickets"]


def test_lists_as_kubectl_prints_them() -> None:
    indented = JOB.replace("\n", "\n  ").rstrip()
    text = f"apiVersion: v1\nkind: List\nitems:\n- {indented}\n  \n- {indented}\n    methd: 1\n"
    assert refusal(text) == ["job.yaml:19: spec.methd: unknown field; did you mean method?"]


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("  method: {lora: {rank: 0}}", "8: spec.method.lora.rank: must be at least 1, not 0"),
        (
            "  method:\n    lora:\n      rnak: 8",
            "10: spec.method.lora.rnak: unknown field; did",
        ),
        (
            "  method: {type: full, lora: {modulesToSave: [lm_head]}}",
            "8: spec.method.lora: lora settings go with types lora and qlora",
        ),
        (
            "  method: {type: lora, quantization: {bits: 4}}",
            "8: spec.method.quantization: quantization goes with type qlora; remove it or change",
        ),
        (
            "  method: {quantization: {bits: 8, type: nf4}}",
            "8: spec.method.quantization: type, doubleQuantization and computeDtype go with 4",
        ),
        ("  method: {quantization: {bits: 2}}", "8: spec.method.quantization.bits: must be "),
        ("  bf16: true", "8: spec.bf16: unknown field; did you mean hyperparameters.precision?"),
        ("  seed: 1", "8: spec.seed: unknown field; use spec.hyperparameters.seed"),
        (
            "  report_to: none",
            "8: spec.report_to: unknown field; runs report to the compute target's tracking",
        ),
        ("  r: 8", "8: spec.r: unknown field; did you mean method.lora.rank?"),
        (
            "  gradient_checkpointing: true",
            "8: spec.gradient_checkpointing: unknown field; did you mean"
            " hyperparameters.gradientCheckpointing?",
        ),
        (
            "  numTrainEpochs: 8",
            "8: spec.numTrainEpochs: unknown field; did you mean hyperparameters.",
        ),
        ("  epochs: 8", "8: spec.epochs: unknown field; did you mean hyperparameters.epochs?"),
        ("  base_model: x", "8: spec.base_model: unknown field; did you mean modelRef?"),
        (
            "  hyperparameters: {per_device_train_batch_size: 8}",
            "8: spec.hyperparameters.per_device_train_batch_size: unknown field; did you mean"
            " hyperparameters.perDeviceBatchSize?",
        ),
        (
            "  method: {lora: {lora_alpha: 8}}",
            "8: spec.method.lora.lora_alpha: unknown field; did you mean method.lora.alpha?",
        ),
        (
            "  trainer: {trl: {arguments: {r: 8}}}",
            "8: spec.trainer.trl.arguments.r: unknown field; did you mean method.lora.rank?",
        ),
        ("  method: {lora: 8}", "8: spec.method.lora: must be a map, not 8"),
        ("  suspend: 'true'", '8: spec.suspend: must be true or false, not "true"'),
        ("  suspend: 1", "8: spec.suspend: must be true or false, not 1"),
        (
            "  hyperparameters: {learningRate: .nan}",
            "8: spec.hyperparameters.learningRate: must be a finite number, not NaN",
        ),
        (
            "  hyperparameters: {learningRate: 0}",
            "8: spec.hyperparameters.learningRate: must be greater than 0, not 0",
        ),
        (
            "  hyperparameters:\n    epochs: 1\n    maxSteps: 2",
            "8: spec.hyperparameters: give at most one of epochs, maxSteps",
        ),
        (
            "  method:\n    type: full\n    lora: {}",
            "10: spec.method.lora: lora settings go with types lora and qlora",
        ),
        (
            "  resources: {gpuLabel: {'/': x}}",
            '8: spec.resources.gpuLabel: key "/" must match',
        ),
        ("  promptRef: {}", "8: spec.promptRef.name: is required"),
        ("  reuse: Always", "8: spec.reuse: must be 'IfIdentical' or 'Never', not \"Always\""),
        ("status: {}\nsepc: {}", "9: sepc: unknown field; did you mean spec?"),
    ],
)
def test_refused_specs(addition: str, expected: str) -> None:
    (line,) = refusal(f"{JOB}{addition}\n")
    assert line.startswith(f"job.yaml:{expected}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "kind: FineTuneJob",
            "kind: FinetuneJob",
            "2: kind: unknown kind; did you mean Fine",
        ),
        ("v1alpha1", "v1", '1: apiVersion: must be kubetune.io/v1alpha1, not "kubetune.io/v1"'),
        ("name: tickets", "name: Tickets", "4: metadata.name: must have at most 253 lower-case"),
        ("name: tickets", f"name: {'a' * 254}", "4: metadata.name: must have at most 253"),
        ("name: tickets", "naem: tickets", "4: metadata.naem: unknown field; did you mean name?"),
    ],
)
def test_refused_objects(old: str, new: str, expected: str) -> None:
    assert refusal(JOB.replace(old, new, 1))[0].startswith(f"job.yaml:{expected}")


@pytest.mark.parametrize("length", [63, 253])
def test_long_names(length: int) -> None:
    (manifest,) = parse_manifests(JOB.replace("name: tickets", f"name: {'a' * length}", 1))
    assert len(manifest.name) == length


def test_all_problems_are_told_at_once() -> None:
    lines = refusal(f"{JOB}  suspend: 3\n  backoffLimit: -1\n---\n{JOB}  reuse: x\n")
    assert [line.split(": ")[1] for line in lines] == [
        "spec.backoffLimit",
        "spec.suspend",
        "spec.reuse",
    ]


def test_inline_rows_over_the_limit() -> None:
    rows = "\n".join(f"      - {{text: {'x' * 1000}}}" for _ in range(300))
    text = (
        "apiVersion: kubetune.io/v1alpha1\nkind: Dataset\nmetadata: {name: a}\n"
        f"spec:\n  source:\n    inline:\n      rows:\n{rows}\n"
    )
    (line,) = refusal(text)
    assert line.startswith("job.yaml:7: spec.source.inline.rows: 303600 bytes of rows")
    assert "use source.volume" in line


@pytest.mark.parametrize(
    ("value", "place", "words"),
    [
        ('"\\ud83d"', 9, "found invalid Unicode character escape code"),
        ("true", 9, "rows[0].text: holds true or false where text belongs"),
        ("12345678901234567890", 9, "rows[0].text: holds a number that the API server rounds"),
        ("[" * 101 + "]" * 101, 8, "row 1 has more than 100 lists and maps in each other"),
        ("[" * 3000 + "]" * 3000, 9, "exceeded maximum nesting depth"),
        (".nan", 9, "must be a finite number, not NaN"),
        ("1e400", 9, "must be a finite number, not Infinity"),
    ],
)
def test_inline_cells_that_cannot_be_kept(value: str, place: int, words: str) -> None:
    text = (
        "apiVersion: kubetune.io/v1alpha1\nkind: Dataset\nmetadata: {name: a}\n"
        f"spec:\n  format: text\n  source:\n    inline:\n      rows:\n      - text: {value}\n"
    )
    (line,) = refusal(text)
    assert line.startswith(f"job.yaml:{place}: ")
    assert words in line


def test_validate_command(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(JOB)
    nested = tmp_path / "more"
    nested.mkdir()
    (nested / "latin1.yml").write_bytes(b"a: \xe9\n")
    (nested / "notes.txt").write_text("not yaml: [")
    good = CliRunner().invoke(main, ["validate", "-f", str(tmp_path / "good.yaml")])
    assert (good.exit_code, good.output) == (
        0,
        "FineTuneJob tickets: valid\n1 objects are valid\n",
    )
    bad = CliRunner().invoke(main, ["validate", "-f", str(tmp_path)])
    assert bad.exit_code == 1
    assert bad.output == f"{nested / 'latin1.yml'}: not UTF-8 at byte 3; save it as UTF-8\n"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="No such file"):
        read_manifests([tmp_path / "none.yaml"])


def test_a_field_that_nothing_is_like_lists_a_few() -> None:
    (line,) = refusal(f"{JOB}  trainer: {{trl: {{arguments: {{foo: 1}}}}}}\n")
    assert line.count(",") == 9
    assert " more" in line
    # Arguments that are refused anyway aren't offered.
    assert "accelerator_config" not in line


def test_all_forbidden_arguments_are_named() -> None:
    given = "output_dir: /tmp, report_to: none, num_train_epochs: 3, push_to_hub: true"
    lines = refusal(f"{JOB}  trainer: {{trl: {{arguments: {{{given}, optim: adafactor}}}}}}\n")
    assert len(lines) == 4
    assert all("not a free argument" in line for line in lines)
    assert any("use spec.hyperparameters.epochs" in line for line in lines)
