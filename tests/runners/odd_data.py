"""What becomes of odd data: a file goes through an inspection and through a job's encoding of it.

Whoever asks says what the rows mean, from the values that were written and by no code of the
runner's.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from inspection_fixtures import inspection_plan
from kubetune.api.run.outcome import Outcome
from kubetune_runner.errors import RunError
from kubetune_runner.inspection import run
from kubetune_runner.text.encoding import IGNORED
from kubetune_runner.training.inputs import Inputs, prepare

from tests.runners.conftest import PlanFactory

Row = dict[str, Any]
DRAWN = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""The same examples each time."""
MANY = settings(DRAWN, max_examples=2000, derandomize=False)
"""Others each time, for the long form."""
UNHURRIED_SECONDS = 3600
"""For what many examples bound, however busy the machine is."""
BOS, EOS = "<bos>", "<eos>"
CONTEXT = 1_000_000
ODD_TEXTS = (
    *(
        "",
        " ",
        "\n",
        "\t \r\n",
        "\x00",
        "a\x00b",
        "\ufeffa",
        "\u200b",
        "a\u2028b\x85c\x1cd",
        "a\rb",
    ),
    *("e\u0301 x\u0308", "क्षि", "שלום\u202eabc", "👩‍👩‍👧 🏳️‍🌈", "\U0010ffff", "ﬁ Å ｱ", "İ ß ſ"),
    *('"q"', "'", "a,b;c\td|e", "\\", "\\n", "\\u00e9", "{prompt}", "{{", "}}", "{", "<b>&amp;"),
    *("NaN", "null", "None", "true", "yes", "007", "1e5", "-0", "=1+1", "#x", "a\r\nb", " lead"),
    *("trail \n", "<eos>", "a<eos>", "<bos>a", "<tool_call>", "<think>x</think>y", "[INST]"),
)
TEXTS = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text("ab ,;\"\n\r\t'", max_size=8),
)
SCALARS = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
"""Whatever JSON can hold."""


@dataclass(frozen=True)
class Found:
    """What an inspection says of a file, and what a job makes of it."""

    inspection: Outcome
    inputs: Inputs | None
    """None where the job refuses."""
    refusal: RunError | None
    decode: Callable[[Sequence[int]], str]

    @property
    def checks(self) -> Row:
        checks: Any = self.inspection.summary["checks"]
        return checks

    @property
    def problems(self) -> list[Row]:
        problems: Any = self.inspection.summary.get("problems") or []
        return problems

    @property
    def named(self) -> set[int]:
        """Rows that have a problem of their own."""
        return {problem["row"] for problem in self.problems if problem.get("row")}

    @property
    def rows(self) -> Sequence[Any]:
        assert self.inputs is not None, self.refusal
        return self.inputs.train.rows

    def texts(self) -> list[tuple[str, str]]:
        """Each row that trains, and the part of it that is learned."""
        return [
            (self.decode(row.input_ids), self.decode([at for at in row.labels if at != IGNORED]))
            for row in self.rows
        ]

    def check_refused(self) -> None:
        """Both refuse, by one reason."""
        assert self.inspection.status == "failed"
        assert self.refusal is not None
        assert self.refusal.reason == self.inspection.reason

    def check_agreed(self) -> None:
        """The inspection counts what the job leaves out, and the job does what it lets pass."""
        assert self.inspection.status == "succeeded", self.inspection.message
        if not self.checks["trainableRows"]:
            assert self.refusal is not None
            # Of promptCompletion a PromptTemplate may take other columns.
            assert self.refusal.reason in ("NoTrainableRows", "ColumnMissing")
            return
        assert self.inputs is not None, self.refusal
        counts = self.inputs.train.counts()
        assert (counts["cut"], counts["cutAway"], counts["dropped"]) == (0, 0, 0)
        names = ("used", "empty", "unusable", "hidden")
        found = ("trainableRows", "emptyRows", "unusableRows", "hiddenPartRows")
        assert [counts[name] for name in names] == [self.checks[name] for name in found]


@dataclass
class Laboratory:
    """Makes files, models and plans of what was drawn."""

    make_plan: PlanFactory = field(repr=False)
    tiny_model: Path = field(repr=False)
    folder: Path = field(repr=False)
    _models: dict[str, Path] = field(default_factory=dict[str, Path], repr=False)

    def model(self, template: str | None = None) -> Path:
        """A model without weights that reads long rows, with a chat template of its own."""
        key = template or ""
        if key not in self._models:
            folder = self.folder / f"model-{len(self._models)}"
            ignored = shutil.ignore_patterns("*.safetensors", "generation_config.json")
            shutil.copytree(self.tiny_model, folder, ignore=ignored)
            config = json.loads((folder / "config.json").read_text())
            config["max_position_embeddings"] = CONTEXT
            (folder / "config.json").write_text(json.dumps(config))
            tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
            tokenizer["model_max_length"] = CONTEXT
            (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
            if template is not None:
                (folder / "chat_template.jinja").write_text(template)
            self._models[key] = folder
        return self._models[key]

    def find(
        self,
        content: bytes,
        suffix: str = "jsonl",
        *,
        dataset: Mapping[str, Any],
        template: str | None = None,
        delimiter: str | None = None,
        **over: Any,
    ) -> Found:
        """Inspect a file, and encode it as a job does."""
        folder = self.folder / "rows"
        folder.mkdir(exist_ok=True)
        (folder / f"rows.{suffix}").write_bytes(content)
        files: Row = {"directory": str(folder), "glob": f"*.{suffix}", "format": suffix}
        if delimiter:
            files["delimiter"] = delimiter
        model = {"name": "m", "type": "base", "directory": str(self.model(template))}
        training = {"hyperparameters": {"maxLength": CONTEXT}} | over.pop("training", {})
        splits = {"evaluationFraction": 0.0}
        plan = self.make_plan(
            rows=[], held_out=[], model=model, training=training, **over,
            dataset={"files": files, "splits": splits, **dataset},
        )  # fmt: skip
        inspection = run(
            inspection_plan("inspectDataset", dataset=plan.dataset.to_json(), model=model)
        )
        inputs, refusal = None, None
        try:
            inputs = prepare(plan)
        except RunError as error:
            refusal = error
        (folder / f"rows.{suffix}").unlink()
        return Found(inspection, inputs, refusal, self.decode)

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text, whole."""
        if not hasattr(self, "_tokenizer"):
            from transformers import AutoTokenizer

            self._tokenizer: Any = AutoTokenizer.from_pretrained(self.model())
        return self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


@pytest.fixture(name="laboratory")
def make_laboratory(make_plan: PlanFactory, tiny_model: Path, tmp_path: Path) -> Laboratory:
    """A laboratory in a folder of the test's own."""
    return Laboratory(make_plan, tiny_model, tmp_path)


def ended(text: str) -> str:
    """A text with the mark that ends it, which it may have already."""
    return text.removesuffix(EOS) + EOS


# Writers: each gives a file's bytes, and the number of each row in it.


@st.composite
def json_lines(draw: st.DrawFn, rows: Sequence[Row]) -> tuple[bytes, list[int]]:
    """One object a line, as people write it: ends of lines, blank ones, escapes, a mark."""
    escaped, end = draw(st.booleans()), draw(st.sampled_from(["\n", "\r\n"]))
    lines: list[str] = []
    numbers: list[int] = []
    for row in rows:
        lines += draw(st.lists(st.sampled_from(["", "  ", "\t"]), max_size=2))
        numbers.append(len(lines) + 1)
        around = draw(st.sampled_from(["", " "]))
        lines.append(around + json.dumps(row, ensure_ascii=escaped) + around)
    text = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    return _marked(draw, text), numbers


@st.composite
def json_document(draw: st.DrawFn, rows: Sequence[Row]) -> tuple[bytes, list[int]]:
    """An array of objects, also as the one array of an object."""
    document: Any = list(rows)
    if draw(st.booleans()):
        document = {"version": "1", "rows": document}
    text = json.dumps(
        document, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 2]))
    )
    return _marked(draw, text), list(range(1, len(rows) + 1))


@st.composite
def table(draw: st.DrawFn, rows: Sequence[Row], delimiter: str = ",") -> tuple[bytes, list[int]]:
    """csv of cells that are text, in all the same columns."""
    stream = io.StringIO(newline="")
    quoting: Any = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    if any("\r" in cell for row in rows for cell in row.values()):
        # The writer leaves it bare, where it would be an end of line.
        quoting = csv.QUOTE_ALL
    end = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.DictWriter(
        stream, list(rows[0]), delimiter=delimiter, quoting=quoting, lineterminator=end
    )
    writer.writeheader()
    writer.writerows(rows)
    return _marked(draw, stream.getvalue()), list(range(1, len(rows) + 1))


def _marked(draw: st.DrawFn, text: str) -> bytes:
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + text.encode()
