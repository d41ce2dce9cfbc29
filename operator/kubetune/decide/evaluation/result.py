"""The end of an Evaluation: the verdict, the alias that moves, and what the status says of both."""

from __future__ import annotations

import json

from kubetune.api.bounded import NOTE, json_value
from kubetune.api.conditions import CandidatePhase, ConditionType, Phase, Reason
from kubetune.api.kinds.evaluation.promotion import Promotion
from kubetune.api.kinds.status_types import PromotedDict
from kubetune.decide.decision import (
    EvaluationDecision,
    FindAlias,
    MoveAlias,
    StopRuns,
    parse_time,
    rfc3339,
)
from kubetune.decide.evaluation.draft import Draft
from kubetune.decide.evaluation.verdict import Verdict, judge, rows_differ
from kubetune.decide.retries import TRACKER_SECONDS
from kubetune.decide.target.unreachable import tracker_unreachable
from kubetune.tracking.base import AliasMove, RegisteredVersion

TAG_PROMOTED = "kubetune.promoted"
"""Prefix of tags that keep the moves of aliases to a version on record."""


def finish(draft: Draft) -> EvaluationDecision:
    """What is left to do once all candidates have ended."""
    failed = [item for item in draft.candidates if item.status["phase"] == CandidatePhase.FAILED]
    if failed:
        first = failed[0]
        return fail(
            draft,
            Reason.CANDIDATE_FAILED,
            f"candidate {first.name} could not be measured: {first.message}",
        )
    statuses = [item.status for item in draft.candidates]
    if message := rows_differ(statuses):
        return fail(draft, Reason.ROWS_DIFFER, message)

    # 1. The version that a winner would replace.
    promote, answers = draft.spec.promote, draft.observed.answers
    if promote and not answers.alias_sought:
        return _asking(draft, FindAlias(promote.name, promote.alias))

    # 2. The verdict.
    before = _holder_before(draft, answers.holder)
    verdict = judge(draft.spec, statuses, before)
    _tell_verdict(draft, verdict)
    if promote is None:
        return _complete(draft, verdict, "")
    if verdict.chosen is None:
        message = f"alias {promote.alias} of {promote.name} stays where it is"
        return _complete(draft, verdict, message, (Reason.NOT_PROMOTED, message))

    # 3. The alias moves to the winner's version.
    chosen = next(item for item in draft.candidates if item.name == verdict.chosen)
    registered = chosen.status.get("registered")
    if registered is None or registered["name"] != promote.name:
        message = (
            f"{chosen.name} is no version of {promote.name}, so it can't get alias {promote.alias}:"
            " register it, or name another candidate in spec.promote.candidate"
        )
        return _complete(draft, verdict, message, (Reason.NOT_REGISTERED, message))
    return _promote(draft, verdict, promote, registered["version"], before)


def fail(draft: Draft, reason: Reason, message: str) -> EvaluationDecision:
    """End the Evaluation as failed: nothing is compared, and no alias moves."""
    for candidate in draft.candidates:
        if candidate.live:
            draft.actions.append(StopRuns(draft.run_key(candidate)))
            candidate.say(CandidatePhase.FAILED, reason, "stopped, since the Evaluation failed")
    draft.status["phase"] = Phase.FAILED
    draft.status["completionTime"] = rfc3339(draft.now)
    conditions = draft.conditions
    conditions.set(ConditionType.FAILED, True, reason, message)
    conditions.set(ConditionType.PASSED, False, reason, message)
    conditions.stalled(reason, message)
    draft.waits.clear()
    return draft.decision()


def _promote(
    draft: Draft, verdict: Verdict, promote: Promotion, version: int, before: int | None
) -> EvaluationDecision:
    answers = draft.observed.answers
    if before == version:
        message = f"{promote.name} version {version} has alias {promote.alias} already"
        return _complete(draft, verdict, message, (Reason.PROMOTED, message))
    if answers.holder and answers.holder.version == version:
        # An operator that ended could not write what it had done.
        return _promoted(draft, verdict, promote, version, before)
    if answers.move is None:
        owner = draft.observed.evaluation.owner
        note = {
            "from": before,
            "by": f"Evaluation {owner.namespace}/{owner.name}",
            "time": rfc3339(draft.now),
            "code": draft.observed.keys.code(*_move_parts(draft, version, before)),
        }
        move = AliasMove(
            promote.name, promote.alias, version, before, _tag(draft), json.dumps(note)
        )
        if error := answers.tracking_refused:
            message = f"alias {promote.alias} can't be moved to version {version}: {error}"
            return _complete(draft, verdict, message, (Reason.TRACKING_REFUSED, message))
        return _asking(draft, MoveAlias(move))
    if answers.move.holder != version:
        message = (
            f"alias {promote.alias} of {promote.name} moved from version {before or 'none'} to"
            f" {answers.move.holder or 'none'} since the verdict, so it was left there: make a new"
            " Evaluation"
        )
        return _complete(draft, verdict, message, (Reason.ALIAS_MOVED, message))
    return _promoted(draft, verdict, promote, version, before)


def _promoted(
    draft: Draft, verdict: Verdict, promote: Promotion, version: int, before: int | None
) -> EvaluationDecision:
    moved: PromotedDict = {"name": promote.name, "alias": promote.alias, "version": version}
    if before is not None:
        moved["previous"] = before
    draft.status["promoted"] = moved
    message = f"{promote.name} version {version} has alias {promote.alias} now"
    if before is not None:
        message += f"; before it was version {before}"
    return _complete(draft, verdict, message, (Reason.PROMOTED, message))


def _tag(draft: Draft) -> str:
    """One tag for each Evaluation and alias, so that a repeated move is the same one."""
    promote = draft.spec.promote
    alias = promote.alias if promote else ""
    return f"{TAG_PROMOTED}.{alias}.{draft.observed.evaluation.owner.uid}"


def _holder_before(draft: Draft, holder: RegisteredVersion | None) -> int | None:
    """The version that had the alias before this Evaluation moved it, if it did."""
    if holder is None:
        return None
    note = holder.tags.get(_tag(draft))
    if note is None:
        return holder.version
    try:
        told = json_value(note, NOTE)
        before, code = told.get("from"), str(told.get("code"))
    except (ValueError, AttributeError):
        return holder.version
    before = before if isinstance(before, int) else None
    # Else somebody has written it who would rather have nothing to beat.
    ours = draft.observed.keys.verifies(code, *_move_parts(draft, holder.version, before))
    return before if ours else holder.version


def _move_parts(draft: Draft, version: int, before: int | None) -> tuple[str, ...]:
    promote = draft.spec.promote
    name = promote.name if promote else ""
    return ("alias move", _tag(draft), name, str(version), str(before))


def _tell_verdict(draft: Draft, verdict: Verdict) -> None:
    for candidate in draft.candidates:
        unmet = verdict.misses[candidate.name]
        candidate.status["passed"] = not unmet
        if unmet:
            candidate.status["misses"] = unmet
    if verdict.winner:
        draft.status["winner"] = verdict.winner
    reason = Reason.THRESHOLDS_MET if verdict.passed else Reason.THRESHOLDS_MISSED
    draft.conditions.set(ConditionType.PASSED, verdict.passed, reason, verdict.message)


def _asking(draft: Draft, action: FindAlias | MoveAlias) -> EvaluationDecision:
    observed, answers = draft.observed, draft.observed.answers
    error = answers.tracking_error
    if answers.tracking_refused:
        return fail(draft, Reason.TRACKING_REFUSED, f"the alias can't be looked up: {error}")
    if error and _waited_too_long(draft):
        return fail(
            draft,
            Reason.DEADLINE_EXCEEDED,
            "the tracking server could not be asked within spec.activeDeadlineSeconds,"
            f" {draft.spec.active_deadline_seconds} s: {error}",
        )
    away = tracker_unreachable(observed.place, observed.target, error, answers.tracking_reason)
    going_on = Reason.PROMOTING, "all candidates are measured; the alias is looked up"
    draft.status["phase"] = Phase.REGISTERING
    draft.conditions.waiting(*(away or going_on))
    draft.actions.append(action)
    draft.waits.append(TRACKER_SECONDS)
    return draft.decision()


def _waited_too_long(draft: Draft) -> bool:
    """Whether the deadline is over for candidates that were all measured before.

    No run of its own moves the clock of such an Evaluation, so all of its time counts.
    """
    limit, begun = draft.spec.active_deadline_seconds, parse_time(draft.status.get("startTime"))
    if limit is None or begun is None or any(item.started for item in draft.candidates):
        return False
    return (draft.now - begun).total_seconds() >= limit


def _complete(
    draft: Draft, verdict: Verdict, note: str, promoted: tuple[Reason, str] | None = None
) -> EvaluationDecision:
    conditions = draft.conditions
    if promoted:
        reason, message = promoted
        conditions.set(ConditionType.PROMOTED, reason == Reason.PROMOTED, reason, message)
    draft.status["phase"] = Phase.SUCCEEDED
    draft.status["completionTime"] = rfc3339(draft.now)
    draft.status.setdefault("startTime", rfc3339(draft.now))
    wins = f"{verdict.winner} is best by {draft.spec.metrics[0]}" if verdict.winner else ""
    passed = "passed" if verdict.passed else "not passed"
    message = "; ".join(part for part in (passed, wins, note) if part)
    conditions.remove(ConditionType.INPUTS_READY)
    conditions.set(ConditionType.COMPLETE, True, Reason.EVALUATED, message)
    conditions.ready(Reason.EVALUATED, message)
    draft.waits.clear()
    return draft.decision()
