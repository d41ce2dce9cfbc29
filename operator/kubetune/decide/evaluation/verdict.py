"""The verdict on an Evaluation whose candidates are all measured: who passes, and who wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubetune.api.kinds.evaluation.promotion import BetterThan, Threshold
from kubetune.api.kinds.evaluation.spec import EvaluationSpec, lower_is_better
from kubetune.api.kinds.status_types import CandidateStatusDict, RegisteredResultDict
from kubetune.api.metrics.metric import BITS_PER_BYTE, PER_TOKEN
from kubetune.decide.decision import shorten
from kubetune.decide.gate import Demand, Rival, better, misses

MAX_MISS = 300


@dataclass(frozen=True)
class Verdict:
    """What the results mean; ``misses`` has the unmet thresholds of each candidate by name."""

    passed: bool
    winner: str | None
    chosen: str | None
    """The candidate whose version is promoted, when it passes."""
    misses: dict[str, list[str]]
    message: str


def judge(
    spec: EvaluationSpec, candidates: Sequence[CandidateStatusDict], holder: int | None
) -> Verdict:
    """Judge candidates of the status by their results as they are shown there.

    ``holder`` is the version of promote.name that has promote.alias.
    """
    values = {item["name"]: _values(item) for item in candidates}
    found = {
        name: [
            shorten(sentence, MAX_MISS)
            for sentence in misses(_demands(spec, name, candidates, values, holder), mine)
        ]
        for name, mine in values.items()
    }
    metric = spec.metrics[0]
    winner: str | None = None
    apart = _tokens_differ(metric, candidates)
    for name, mine in values.items() if not apart else ():
        if found[name] or metric not in mine:
            continue
        if winner is None or better(
            mine[metric], values[winner][metric], lower_is_better=lower_is_better(spec, metric)
        ):
            winner = name
    named = spec.promote.candidate if spec.promote else None
    chosen = named or winner
    demanded = {threshold.candidate for threshold in spec.thresholds or () if threshold.candidate}
    failing = [name for name in values if found[name] and name in demanded | {named}]
    passed = chosen is not None and not failing
    if apart and not passed and not failing:
        message = f"nobody wins: {apart}"
    elif passed:
        message = f"{chosen} meets all thresholds" if spec.thresholds else "no thresholds are set"
    else:
        shown = failing or list(values)
        message = "; ".join(
            f"{name}: {', '.join(found[name]) or f'{metric} has no value'}" for name in shown
        )
    return Verdict(passed, winner, chosen if passed else None, found, message)


def rows_differ(candidates: Sequence[CandidateStatusDict]) -> str:
    """A sentence where candidates were measured on different rows; else empty."""
    if len({item.get("rowsDigest") for item in candidates}) <= 1:
        return ""
    counts = ", ".join(
        f"{item['name']} {item.get('rows', 0)} rows ({item.get('skipped') or 0} left out)"
        for item in candidates
    )
    return (
        f"candidates were measured on different rows, so they can't be compared: {counts}. A row is"
        " left out, or measured in part, where it doesn't fit into a model's context: lower"
        " generation.maxNewTokens, leave such rows or that candidate out, or look at the source of"
        " the Dataset if it has changed; then make a new Evaluation"
    )


def _tokens_differ(metric: str, candidates: Sequence[CandidateStatusDict]) -> str:
    """A sentence where a mean over tokens can't compare candidates; else empty."""
    if metric not in PER_TOKEN or len({item.get("tokens") for item in candidates}) <= 1:
        return ""
    counts = ", ".join(f"{item.get('tokens', 0)} in {item['name']}" for item in candidates)
    return (
        f"{metric} is a mean over tokens, of which the same text makes {counts}: compare by"
        f" {BITS_PER_BYTE}"
    )


def _demands(
    spec: EvaluationSpec,
    name: str,
    candidates: Sequence[CandidateStatusDict],
    values: dict[str, dict[str, float]],
    holder: int | None,
) -> list[Demand]:
    found: list[Demand] = []
    for threshold in spec.thresholds or ():
        if threshold.candidate not in (None, name):
            continue
        lower = lower_is_better(spec, threshold.metric)
        if threshold.better_than is None:
            demand = Demand(threshold.metric, threshold.min, threshold.max)
        elif rival := _rival(threshold.better_than, spec, candidates, holder):
            if isinstance(rival, str):
                pair = [item for item in candidates if item["name"] in (name, rival)]
                if apart := _tokens_differ(threshold.metric, pair):
                    found.append(Demand(threshold.metric, impossible=apart))
                    continue
                value = values[rival].get(threshold.metric)
                beaten = Rival(f"candidate {rival}", value)
                demand = Demand(threshold.metric, rival=beaten, lower_is_better=lower)
            else:
                demand = rival.demand(threshold)
        else:
            continue
        found.append(demand)
    return found


@dataclass(frozen=True)
class _Unmeasured:
    """The version with the alias takes no part, so nobody can be compared with it."""

    message: str

    def demand(self, threshold: Threshold) -> Demand:
        return Demand(threshold.metric, impossible=self.message)


def _rival(
    wanted: BetterThan,
    spec: EvaluationSpec,
    candidates: Sequence[CandidateStatusDict],
    holder: int | None,
) -> str | _Unmeasured | None:
    """The candidate to beat; None when there is nothing to beat."""
    if wanted.candidate:
        return wanted.candidate
    if holder is None or spec.promote is None:
        return None
    version: RegisteredResultDict = {"name": spec.promote.name, "version": holder}
    for item in candidates:
        if item.get("registered") == version:
            return item["name"]
    return _Unmeasured(
        f"{spec.promote.name} version {holder}, which has alias {wanted.alias}, is no candidate:"
        " make a Model of it and name it in spec.candidates"
    )


def _values(candidate: CandidateStatusDict) -> dict[str, float]:
    return {
        item["name"]: float(item["value"])
        for item in candidate.get("metrics") or ()
        if "value" in item
    }
