"""Whether the ways around a model's own forward give what it gives; those that don't are left.

trl's head knows what a model does between its last hidden states and its scores (a layer and a
norm, a cap, a scale) for some architectures alone, so it is compared with the model's own scores,
and gradients, on a small batch. The batch also tells what can't be trained at all.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kubetune_runner.errors import RunError
from kubetune_runner.model import heads
from kubetune_runner.text.encoding import IGNORED

log = logging.getLogger(__name__)

TEXTS = (
    "It was the best of times, it was the worst of times, and nobody knew which.",
    "7 x 9 = 63",
)
"""Of different lengths, so that one is padded."""
MAX_TOKENS = 24
LARGE = 30.0
"""Scores of a trained model. An untrained one has scores so small that no cap shows on them, so
they are looked at in this size too."""
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Of the largest score."""
COARSE = 2e-2
"""For formats of 16 bits."""
SEED = 0

Context = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Shortcuts:
    """Which ways around the model's own forward are taken; all give what it gives."""

    head: bool
    """trl's head instead of the model's own."""
    checkpointing: bool
    """Activations are computed again instead of kept."""
    balance: bool
    """The model gives a loss of how evenly its experts are used, where that is asked for."""


def settle(
    model: Any,
    tokenizer: Any,
    *,
    training: bool = False,
    context: Context = contextlib.nullcontext,
    checkpointing: Mapping[str, Any] | None = None,
) -> Shortcuts:
    """Compare the shortcuts with the model's own forward on a small batch; leave those that differ.

    The model has trl's head. ``training`` is the mode it will be in first: some quantized layers
    take another form of their weights, for good, when they are called in the other one. ``context``
    is what its forward is called in, ``checkpointing`` the options of gradient checkpointing where
    that is on.
    """
    base = _base(model)
    recomputes = checkpointing is not None
    with _as_it_was(model), torch.no_grad(), context():
        model.train(training)
        plain = _probed(model, base, tokenizer)
        _check_direction(plain, _kind(model))
        if checkpointing is not None:
            expected = plain.own(1.0)
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(checkpointing))
            recomputes = plain.agree(expected, plain.own(1.0), 1.0)
            model.gradient_checkpointing_disable()
        fused = not _has_adapted_head(base) and _agrees(plain, plain.fused)
        fused = fused and (not training or plain.teaches_alike())
        balance = plain.balances()
        if training:
            # It is measured in the other mode, in which some do more.
            model.eval()
            _probed(model, base, tokenizer)
    if checkpointing is not None and not recomputes:
        log.warning(
            "models of type %s give other losses with gradient checkpointing, which stays off",
            _kind(model),
        )
    if not fused:
        log.warning(
            "models of type %s: trl's head gives other losses or gradients, so their own is used;"
            " it needs memory for the scores of all tokens",
            _kind(model),
        )
        heads.use_own(base)
    return Shortcuts(fused, recomputes, balance)


def _check_direction(probe: _Probe, kind: str) -> None:
    """Refuse models that don't say the next token from those before it."""
    if probe.sees_ahead():
        raise RunError(
            "ModelNotCausal",
            f"models of type {kind} see what follows a token, so they would copy it instead of"
            " learning to say it: name a model that was made to generate text, or set is_decoder"
            " in config.json where it is one",
        )
    if probe.fills_gaps():
        raise RunError(
            "ModelNotCausal",
            f"models of type {kind} put a token of their own behind a text to say what stands in"
            " its place, which isn't what training on texts teaches: name a model that says the"
            " next token",
        )


def _probed(model: Any, base: Any, tokenizer: Any) -> _Probe:
    """The probe, of which the model's forward has read the texts.

    Raises RunError ModelFails.
    """
    batch = probe(tokenizer, model.device)
    config = base.config.get_text_config()
    try:
        return _Probe(model, base, batch)
    except torch.OutOfMemoryError:
        raise
    # It may be anything that an architecture asks of its texts.
    except Exception as error:
        if getattr(config, "output_router_logits", False):
            # Nor does every mixture of experts have layers with some.
            log.info("without the scores of experts, which the model fails to give: %s", error)
            config.output_router_logits = False
            return _probed(model, base, tokenizer)
        raise _fails(model, base, batch["input_ids"].shape[1], error) from error


def _fails(model: Any, base: Any, width: int, error: Exception) -> RunError:
    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if getattr(base, "is_quantized", False):
        what = "read texts with quantized weights"
        way_out = "set method.type to lora, or name another model"
    else:
        what, way_out = "read texts of any length", "name another model"
    return RunError(
        "ModelFails",
        f"models of type {_kind(model)} can't {what} (of {width} tokens: {why}): {way_out}",
    )


def probe(tokenizer: Any, device: Any) -> dict[str, torch.Tensor]:
    """Two texts as a batch, filled up at the right."""
    rows: list[list[int]] = [tokenizer(text)["input_ids"][:MAX_TOKENS] for text in TEXTS]
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    columns = {
        "input_ids": [[*row, *[pad] * (width - len(row))] for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
        "labels": [[*row, *[IGNORED] * (width - len(row))] for row in rows],
    }
    return {name: torch.tensor(value, device=device) for name, value in columns.items()}


class _Probe:
    """Logarithms of the labels' probabilities on one batch."""

    def __init__(self, model: Any, base: Any, batch: dict[str, torch.Tensor]) -> None:
        self._model = model
        self._base = base
        self._backbone = base.base_model if base.base_model is not base else None
        self._batch = batch
        self._texts = {name: value for name, value in batch.items() if name != "labels"}
        logits = self._logits()
        self.dtype = logits.dtype
        self.largest = logits.float().abs().max().item()

    @property
    def scales(self) -> tuple[float, ...]:
        """What the last hidden states are multiplied by, one after the other."""
        return (1.0, LARGE / self.largest) if 0 < self.largest < LARGE else (1.0,)

    def own(self, scale: float) -> torch.Tensor:
        """By the model's own forward."""
        with self._scaled(scale):
            logits, labels = self._logits()[:, :-1], self._batch["labels"][:, 1:]
            return heads.scored(logits, labels).log_probs

    def fused(self, scale: float) -> torch.Tensor:
        """By trl's head."""
        with self._scaled(scale):
            return self._run({**self._batch, "fused_lm_head": True}).log_probs

    def sees_ahead(self) -> bool:
        """Whether the score of a token depends on those behind it."""
        texts = {name: value[:1].clone() for name, value in self._texts.items()}
        before = self._run(texts).logits[:, :-1].float()
        ids = texts["input_ids"]
        ids[0, -1] = next((token for token in ids[0] if token != ids[0, -1]), 0)
        apart = (before - self._run(texts).logits[:, :-1].float()).abs()
        # What is no number is reported elsewhere.
        apart = apart[apart.isfinite()]
        return bool(apart.numel() and apart.max() > self._tolerance(1.0))

    def fills_gaps(self) -> bool:
        """Whether generation asks the model for something else than what follows a text."""
        ids = self._texts["input_ids"][:1]
        mask = self._texts["attention_mask"][:1]
        try:
            asked = self._base.prepare_inputs_for_generation(
                ids, attention_mask=mask, use_cache=False, is_first_iteration=True
            )
        # Whether it generates at all is seen where it does.
        except Exception as error:
            log.info("inputs for generation: %s: %s", type(error).__name__, error)
            return False
        found = asked.get("input_ids")
        return found is not None and not torch.equal(found, ids)

    def teaches_alike(self) -> bool:
        """Whether trl's head gives the gradients that the model's own gives.

        Of what lies behind the last hidden states; what lies before gets them by those.
        """
        try:
            own, fused = self._gradients(self.own), self._gradients(self.fused)
        except torch.OutOfMemoryError:
            raise
        # As with its scores, it may meet anything.
        except Exception as error:
            log.info("trl's head gives no gradients: %s: %s", type(error).__name__, error)
            return False
        return all(map(self._alike, own, fused))

    def _gradients(self, scores: Callable[[float], torch.Tensor]) -> list[torch.Tensor | None]:
        """Of the last hidden states and of what trains behind them."""
        output = self._base.get_output_embeddings()
        # Weights of the input layer may be those of the output layer too.
        last = {id(one) for one in output.parameters()} if output is not None else set[int]()
        within = {id(one) for one in self._backbone.parameters()} if self._backbone else set[int]()
        behind = [
            one
            for one in self._base.parameters()
            if one.requires_grad and (id(one) in last or id(one) not in within)
        ]
        hidden: list[torch.Tensor] = []

        def part(_module: Any, _inputs: Any, output: Any) -> None:
            hidden.append(output.last_hidden_state.detach().requires_grad_())
            output.last_hidden_state = hidden[-1]

        handle = self._backbone.register_forward_hook(part) if self._backbone is not None else None
        try:
            with torch.enable_grad():
                loss = scores(1.0).sum()
                return list(torch.autograd.grad(loss, [*hidden, *behind], allow_unused=True))
        finally:
            if handle is not None:
                handle.remove()

    def _alike(self, one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
        if one is None or other is None:
            return one is other
        tolerance = TOLERANCES.get(self.dtype, COARSE) * one.abs().max()
        return bool((one - other).abs().max() <= tolerance)

    def balances(self) -> bool:
        """Whether there is a loss of how evenly the experts of a mixture are used."""
        return getattr(self._run(self._texts), "aux_loss", None) is not None

    def agree(self, one: torch.Tensor, other: torch.Tensor, scale: float) -> bool:
        """Whether they are equal but for rounding."""
        return bool((one - other).abs().max() <= self._tolerance(scale))

    def _tolerance(self, scale: float) -> float:
        return TOLERANCES.get(self.dtype, COARSE) * self.largest * scale

    def _logits(self) -> torch.Tensor:
        return self._run(self._texts).logits

    def _run(self, inputs: Mapping[str, Any]) -> Any:
        # What is dropped by chance is the same each time.
        torch.manual_seed(SEED)
        return self._model(**inputs, use_cache=False)

    @contextlib.contextmanager
    def _scaled(self, scale: float) -> Generator[None]:
        if scale == 1.0 or self._backbone is None:
            yield
            return

        def grow(_module: Any, _inputs: Any, output: Any) -> None:
            output.last_hidden_state = output.last_hidden_state * scale

        handle = self._backbone.register_forward_hook(grow)
        try:
            yield
        finally:
            handle.remove()


def _agrees(probe: _Probe, scores: Callable[[float], torch.Tensor]) -> bool:
    """Whether a shortcut gives what the model's own forward gives."""
    try:
        return all(probe.agree(probe.own(scale), scores(scale), scale) for scale in probe.scales)
    except torch.OutOfMemoryError:
        raise
    # It may meet anything in an architecture that it doesn't know.
    except Exception as error:
        log.info("a shortcut fails: %s: %s", type(error).__name__, error)
        return False


@contextlib.contextmanager
def _as_it_was(model: Any) -> Generator[None]:
    """Chance and mode are afterwards what they were."""
    training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            model.train(training)


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _has_adapted_head(base: Any) -> bool:
    """Whether an adapter changes the output layer, of which trl's head reads the weights alone."""
    return hasattr(base.get_output_embeddings(), "lora_A")


def _kind(model: Any) -> str:
    return str(model.config.model_type)
