"""One architecture through everything that a run does with it, each beside the plain way.

The left side is the runner's own code: inspection, training, saving, merging, generating, scoring.
The right side is transformers and peft alone: the model's own forward, one text at a time, no
cache, no padding, and an optimizer by hand.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.run.plan import ModelPlan, RunPlan
from kubetune_runner import finite, inspection
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.results import save_results
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.fitting import fit, make_trainer
from kubetune_runner.training.inputs import prepare

from tests.runners.inspection_fixtures import inspection_plan
from tests.runners.matrix import shrink, vocabularies

EQUAL, REFUSED, DEFECT = "equal", "refused", "defect"
METHODS: Mapping[str, Mapping[str, Any]] = {
    "LoRA": {},
    "DoRA": {"lora": {"useDora": True}},
    "kept modules": {},
    "full": {"method": "full", "lora": None},
    "QLoRA": {
        "method": "qlora",
        "quantization": {"bits": 4, "type": "nf4", "doubleQuantization": True},
    },
}
REFUSALS = (
    # Before the first step.
    "AdapterUnreadable",
    "DoraUnsupported",
    "LossNotFinite",
    "ModelFails",
    "ModelNotCausal",
    "ModelUnreadable",
    "ModulesToSaveUnknown",
    "TargetModulesUnknown",
    "TrainerRefused",
    # Before anything is registered.
    "MergeDiffers",
)
"""Reasons of refusals; any other comes too late, or is wrong of what was made here."""
ANSWERS = ("alone", "in a batch", "scored")
UNMADE = "made"
"""The one cell of an architecture that can't be made tiny."""
COLUMNS = ("inspection", *METHODS, "merged", *ANSWERS)
STEPS = 2
RATE = 0.01
NEW_TOKENS = 6
TOLERANCE = 1e-3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """What became of one thing with one architecture."""

    verdict: str
    why: str = ""


class Differs(AssertionError):
    """The runner's way and the plain one don't agree."""


def architectures() -> list[str]:
    """The model types that AutoModelForCausalLM knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def make(kind: str, folder: Path) -> Path:
    """Save a tiny model of an architecture, with a tokenizer of its kind."""
    import torch
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    tokenizer = vocabularies.make(kind, folder)
    special = {
        f"{role}_token_id": number
        for role in ("pad", "bos", "eos")
        if (number := getattr(tokenizer, f"{role}_token_id")) is not None
    }
    fields = shrink.fields_of(kind, len(tokenizer), special)
    config = CONFIG_MAPPING[kind].from_dict(fields)
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    if type(model.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        # It is a part of a model for pictures too, which is told by the configuration of the whole.
        config.save_pretrained(folder)
    return folder


def examine(kind: str, folder: Path, methods: Mapping[str, Any] = METHODS) -> dict[str, Cell]:
    """Every cell of an architecture's row."""
    if kind in shrink.IMPOSSIBLE:
        return {UNMADE: Cell(REFUSED, shrink.IMPOSSIBLE[kind])}
    base = make(kind, folder / "base")
    found = inspection.run(
        inspection_plan("inspectModel", model={"name": kind, "directory": str(base)})
    )
    if found.status == "failed":
        # The folder is another one each time.
        why = f"{found.reason}: {found.message}".replace(f"folder {folder / 'base'}", "the model")
        return dict.fromkeys(COLUMNS, Cell(REFUSED, why))
    cells = {"inspection": Cell(EQUAL)}
    for method in methods:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        cells |= _method(method, base, work)
    first = cells.get("LoRA")
    if first is not None and first.verdict == REFUSED:
        # There is nothing to merge or to ask.
        cells |= dict.fromkeys(("merged", *ANSWERS), first)
    return cells


def _method(method: str, base: Path, work: Path) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    with _cell(cells, method):
        run = Trained(plan_of(method, base, work))
        run.check()
        with _cell(cells, "merged", also=method == "LoRA"):
            run.check_merged()
        if method == "LoRA":
            for column, check in zip(ANSWERS, (run.alone, run.together, run.scored), strict=True):
                with _cell(cells, column):
                    check()
    return cells


@contextmanager
def _cell(cells: dict[str, Cell], name: str, also: bool = True) -> Generator[None]:
    """Note how a check ended; one that isn't a column of its own counts for that around it."""
    try:
        yield
    except Exception as error:
        if not also:
            raise
        log.exception("%s", name)
        cells[name] = _of(error)
    else:
        if also:
            cells[name] = Cell(EQUAL)


def _of(error: Exception) -> Cell:
    text = " ".join(str(error).split())[:400]
    if isinstance(error, RunError):
        verdict = REFUSED if error.reason in REFUSALS else DEFECT
        return Cell(verdict, f"{error.reason}: {text}")
    return Cell(DEFECT, f"{type(error).__name__}: {text}")


def plan_of(method: str, base: Path, work: Path) -> RunPlan:
    """A plan of two steps on one batch."""
    from kubetune.api.training.settings import merge

    from tests.runners.conftest import _document

    (work / "data").mkdir()
    for name, rows in (("train", tickets(4)), ("test", tickets(3, held_out=True))):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (work / "data" / f"{name}.jsonl").write_text(text)
    over: dict[str, Any] = {
        "run": {"runKey": "key"},
        "training": {
            "hyperparameters": {
                "maxSteps": STEPS,
                "learningRate": RATE,
                "perDeviceBatchSize": 4,
                "maxLength": 96,
            },
            "checkpoint": {"everySteps": 100},
            "evaluation": {"maxNewTokens": NEW_TOKENS},
            **METHODS[method],
        },
        "merge": method != "full",
    }
    if method == "kept modules":
        over["training"]["lora"] = {"modulesToSave": [_input_layer(base)]}
    document = _document(str(work / "data"), str(base), str(work / "checkpoints"))
    return RunPlan.model_validate(merge(document, over))


def _input_layer(base: Path) -> str:
    try:
        model = stock(base)
    except (OSError, ValueError):
        # What transformers can't load is the run's to refuse.
        return "embed_tokens"
    inputs = model.get_input_embeddings()
    return next(name for name, module in model.named_modules() if module is inputs).split(".")[-1]


def stock(folder: Path, quantization: Any = None) -> Any:
    """A model as transformers loads it."""
    import torch
    from kubetune_runner.model.quantization import compute_plainly
    from transformers import AutoModelForCausalLM

    options = {"quantization_config": quantization} if quantization else {}
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    return compute_plainly(model).eval()


def scores(model: Any, ids: list[int]) -> Any:
    """Of one text, by the model's own forward."""
    import torch

    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def losses(model: Any, rows: Sequence[Any]) -> Iterator[Any]:
    """The loss of each row, as a sum over its labelled tokens."""
    import torch

    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0, :-1]
        yield torch.nn.functional.cross_entropy(
            logits.float(), torch.tensor(row.labels[1:]), reduction="sum"
        )


def mean_loss(model: Any, rows: Sequence[Any]) -> float:
    """Held-out loss, one row at a time."""
    import torch

    model.eval()
    with torch.no_grad():
        return sum(loss.item() for loss in losses(model, rows)) / labelled(rows)


def labelled(rows: Sequence[Any]) -> int:
    """Tokens that have a label."""
    return sum(sum(label != -100 for label in row.labels[1:]) for row in rows)


def same(what: str, found: float, expected: float) -> None:
    """Raise Differs unless two losses are equal but for rounding."""
    if not abs(found - expected) <= TOLERANCE * max(1.0, abs(expected)):
        raise Differs(f"{what} {found:.5f}, the plain way {expected:.5f}")


def same_scores(what: str, found: Any, expected: Any) -> None:
    """Raise Differs unless scores are equal but for rounding."""
    apart = ((found - expected).abs().max() / expected.abs().max()).item()
    if not apart <= TOLERANCE:
        raise Differs(f"{what} differs from the plain way by {apart:.1%} of the largest score")


class Trained:
    """A run of the plan, and its twin by hand."""

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self.inputs = prepare(plan)
        made = make_trainer(plan, self.inputs, StopSignal(), Tracker(plan))
        self.trainer: Any = made[0]
        self._progress = made[1]
        base = self.trainer.model
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        self.quantization = getattr(base.config, "quantization_config", None)
        self.base = Path(plan.model.directory or "")
        self.held_out = self.inputs.evaluation.rows

    def check(self) -> None:
        """Train, and compare losses, steps, and what was saved."""
        plain = stock(self.base, self.quantization)
        untrained = self.trainer.held_out_loss()
        finite.check_metrics({"eval_loss": untrained}, "before any training", finite.OTHER_MODEL)
        same("untrained loss", untrained, mean_loss(plain, self.held_out))
        twin = self._twin(plain)
        fit(self.plan, StopSignal(), self.trainer, self._progress)
        seen = [one["loss"] for one in self.trainer.state.log_history if "loss" in one]
        for step, (found, expected) in enumerate(
            zip(seen, self._steps(twin), strict=True), start=1
        ):
            same(f"loss of step {step}", found, expected)
        trained = self.trainer.held_out_loss()
        same("loss after training", trained, mean_loss(twin, self.held_out))
        self.saved = save_results(
            self.plan.model_copy(update={"merge": False}),
            self.inputs.start,
            self.trainer.model,
            self.inputs.tokenizer,
            chat=False,
        )
        self.loaded = self._reload()
        same("loss before saving", trained, mean_loss(self.loaded, self.held_out))

    def check_merged(self) -> None:
        """Merge, and compare with the adapter on its base."""
        if self.plan.training.method == "full":
            return
        rows = [row.input_ids for row in self.inputs.train.rows]
        saved = save_results(
            self.plan,
            self.inputs.start,
            self.trainer.model,
            self.inputs.tokenizer,
            chat=False,
            rows=rows,
        )
        if saved.merged is None:
            raise Differs("nothing was merged")
        adapted, merged = self._reload(quantized=False), stock(saved.merged)
        for row in self.held_out:
            expected = scores(adapted, row.input_ids)
            same_scores("the merged model", scores(merged, row.input_ids), expected)

    def alone(self) -> None:
        """Generate one answer at a time."""
        self._answers(1)

    def together(self) -> None:
        """Generate answers in a batch of prompts of different lengths."""
        self._answers(len(self.held_out))

    def scored(self) -> None:
        """Score rows as an evaluation does, padded."""
        from kubetune_runner.training import losses as ours

        model, tokenizer = self._candidate()
        batch = ours.padded(self.held_out, tokenizer.pad_token_id, "cpu")
        found = ours.row_losses(model, batch)
        for row, (loss, count) in zip(self.held_out, found, strict=True):
            same("loss of a row", loss / count, mean_loss(self.loaded, [row]))

    def _answers(self, size: int) -> None:
        from kubetune_runner.answering.generation import generate

        model, tokenizer = self._candidate()
        prompts = [row.prompt_ids for row in self.held_out]
        found = generate(model, tokenizer, prompts, batch=size, max_new_tokens=NEW_TOKENS)
        for prompt, answer in zip(prompts, found, strict=True):
            self._follows(prompt, answer, tokenizer.eos_token_id)

    def _follows(self, prompt: list[int], answer: list[int], end: int | None) -> None:
        """Each token must be the best by the plain forward, or as good but for rounding."""
        for at in range(NEW_TOKENS):
            last = scores(self.loaded, [*prompt, *answer[:at]])[-1]
            chosen = answer[at] if at < len(answer) else end
            if chosen is None or last.max() - last[chosen] > TOLERANCE * last.abs().max():
                raise Differs(f"token {at + 1} of an answer is {chosen}, not {int(last.argmax())}")
            if at >= len(answer):
                return

    def _candidate(self) -> tuple[Any, Any]:
        import torch
        from kubetune_runner.evaluate import candidate

        if not hasattr(self, "_loaded_candidate"):
            found = candidate.find(
                ModelPlan.model_validate(
                    {
                        "name": "tuned",
                        "type": "adapter",
                        "directory": str(self.saved.result),
                        "base": {"name": "base", "type": "base", "directory": str(self.base)},
                    }
                )
            )
            self._loaded_candidate = candidate.load(found, torch.float32), found.tokenizer
        return self._loaded_candidate

    def _reload(self, *, quantized: bool = True) -> Any:
        """From the folder, by transformers and peft alone."""
        from peft import PeftModel

        if self.plan.training.method == "full":
            return stock(self.saved.result)
        base = stock(self.base, self.quantization if quantized else None)
        return PeftModel.from_pretrained(base, self.saved.result).eval()

    def _twin(self, plain: Any) -> Any:
        """The plain model with the same adapter, before the first step."""
        from peft import get_peft_model

        if self.plan.training.method == "full":
            return plain
        ours: Any = self.trainer.model
        twin: Any = get_peft_model(plain, ours.peft_config["default"])
        trained = dict(twin.named_parameters())
        for name, weight in ours.named_parameters():
            if weight.requires_grad:
                trained[name].data.copy_(weight.data)
        return twin

    def _steps(self, twin: Any) -> Iterator[float]:
        """The losses of the steps that an optimizer makes by hand."""
        import torch

        twin.train()
        trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
        rows = self.inputs.train.rows
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / STEPS)
            total = 0.0
            for loss in losses(twin, rows):
                share = loss / labelled(rows)
                share.backward()
                total += share.item()
            total += self._balance(twin)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield total

    def _balance(self, twin: Any) -> float:
        """Add the loss of how evenly experts are used, which is of a whole batch.

        A mixture of experts has it with a weight of its own.
        """
        from kubetune_runner.training import losses as ours

        if not self.trainer.aux_loss_enabled:
            return 0.0
        batch = ours.padded(self.inputs.train.rows, self.inputs.tokenizer.pad_token_id, "cpu")
        del batch["labels"]
        found = twin(**batch, output_router_logits=True, use_cache=False).aux_loss
        weighted = self.trainer.router_aux_loss_coef * found
        weighted.backward()
        return weighted.item()
