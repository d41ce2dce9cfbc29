"""Training by the user's own code: the runner prepares, starts it, follows it and takes the result.

The code is a process of its own; torch comes into this one only when it has ended, so that all
memory is the code's.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubetune.api.rows import loss_rows
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import ENV_ATTEMPT, ENV_DATASET_TOKEN, TAG_METRICS, RunPlan, in_container
from kubetune.api.run.redact import redactor
from kubetune.api.training import own_code as names

from kubetune_runner import data, startup_gc
from kubetune_runner.data.splits import some
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import records
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import describe, patiently
from kubetune_runner.model import loading, merging, starting
from kubetune_runner.model.starting import StartingModel
from kubetune_runner.own_code import axolotl, ending, found, handover, script, together
from kubetune_runner.own_code.found import Found
from kubetune_runner.own_code.protocol import ProgressServer
from kubetune_runner.own_code.watch import Watch
from kubetune_runner.processes.group import GRACE_SECONDS
from kubetune_runner.results import Saved, folder_of, upload_results
from kubetune_runner.signals import StopSignal
from kubetune_runner.surroundings import kept_out
from kubetune_runner.text import prompts
from kubetune_runner.text.encoding import Counts, EncodedRow, EncodedRows, encode
from kubetune_runner.training.out_of_memory import Kills
from kubetune_runner.training.workers import worker_of

log = logging.getLogger(__name__)


@dataclass
class _Job:
    """What belongs together while the code runs."""

    plan: RunPlan
    start: StartingModel
    scratch: Path
    """Folder of this attempt."""
    command: list[str]
    """Empty for axolotl, whose configuration needs everything else."""
    train: Counts = field(default_factory=Counts)
    """The rows that train."""
    rows: dict[str, str] = field(default_factory=dict[str, str])
    """Variables that name the rows' files."""
    note: str = ""
    """What else is to be said of the code's end."""

    @property
    def checkpoints(self) -> Path:
        """Folder for the code's checkpoints."""
        return in_container(self.plan.training.checkpoint.directory)

    @property
    def results(self) -> Path:
        """Folder that the code's output folder is in."""
        return folder_of(self.plan)


def run(plan: RunPlan, stop: StopSignal, tracker: Tracker, inherited: Mapping[str, str]) -> Outcome:
    """Run the code, then measure and upload what it leaves, where this is the worker that leads.

    ``inherited`` is the environment before the runner changed its own. Raises RunError as named
    in docs/script.md, Interrupted after a signal.
    """
    scratch = merging.scratch("own-code")
    try:
        own = plan.training.script
        if own is None:
            # Before anything is read.
            axolotl.command(inherited, scratch)
        command = script.fetch(own, scratch) if own else []
        stages = tracker.stages
        start = starting.fetch(plan.model, plan.training, stages)
        loaded = data.load(plan.dataset, os.environ.get(ENV_DATASET_TOKEN) or None, stages)
        data.check_unchanged(plan.dataset, loaded)
        job = _Job(plan, start, scratch, command)
        _write(job, loaded)
        startup_gc.over()
        tracker.metrics({"train_rows_used": float(job.train.used)}, 0)
        result = found.earlier(job.results, plan.lineage_digest)
        if worker_of(plan):
            if result is None:
                return _train_along(job, stop, inherited)
            # Worker 0 finds it too, and nobody would be met.
            return _trained_along(plan)
        if result is None:
            result, steps = _train(job, stop, tracker, inherited)
        else:
            log.info("an earlier attempt has left the %s: it is measured and uploaded", result.kind)
            steps = 0
        return _finish(job, result, steps, tracker, loaded.evaluation)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(job: _Job, loaded: data.LoadedDataset) -> None:
    """Write the rows of both splits; those that train are counted."""
    plan = job.plan
    try:
        tokenizer = loading.load_tokenizer(plan.model, job.start.tokenizer, plan.training.tokenizer)
    except RunError as error:
        # The code may know better.
        log.warning("what a chat template shows isn't known: %s", error)
        tokenizer = None
    share = (plan.training.data_fraction, plan.training.data_seed)
    train = loaded.train.pick(prompts.chosen(len(loaded.train), *share)).placed()
    held_out = loaded.evaluation.placed()
    known = [column.name for column in loaded.columns]
    written = handover.write_rows(job.scratch, plan, "train", train, known, tokenizer)
    others = handover.write_rows(job.scratch, plan, "eval", held_out, known, tokenizer)
    job.rows, job.train = written.files | others.files, written.rows


def _train(
    job: _Job, stop: StopSignal, tracker: Tracker, inherited: Mapping[str, str]
) -> tuple[Found, int]:
    """Run the code; what it left, and how many steps it reported."""
    plan = job.plan
    run_id = patiently(
        tracker, lambda run_id: run_id, "the code needs its run in", "another attempt starts it"
    )
    output = job.results / "output"
    if plan.training.axolotl is None:
        # axolotl's checkpoints are there.
        shutil.rmtree(job.results, ignore_errors=True)
    command, environment = _given(job, inherited, output, run_id, tracker.attempt)
    deadline = plan.training.progress_deadline_seconds
    watch = Watch(tracker, plan.training.hyperparameters, deadline)
    server = ProgressServer(job.scratch, watch.receive)
    grace = float(inherited.get(names.ENV_GRACE) or GRACE_SECONDS)
    kills = Kills()
    try:
        tracker.watch(watch.gauges)
        given = environment | server.environment
        with kept_out():
            hide = redactor({**inherited, **environment})
            group = together.start(command, job.scratch, given, plan, hide)
            ends = group.wait(stop, grace, watch.check)
    finally:
        server.close()
        tracker.watch(lambda: None)
        # MLflow's own end of a run isn't the end of this one.
        tracker.call(lambda client, run_id: client.update_run(run_id, status="RUNNING"))
    tracker.report(*watch.gauges())
    try:
        together.check(ends, group, plan, short_of_memory=kills.some())
    except RunError as error:
        code, lines = together.ended_first(ends, group)
        if not (ending.is_bookkeeping(code, lines) and found.is_there(output)):
            raise
        log.warning("the result is there, and counts: %s", error)
        job.note = f"; then it ended with exit code {code}, since MLflow refused what it reported"
    return found.take(output, job.start.base, plan.lineage_digest), watch.step


def _given(
    job: _Job, inherited: Mapping[str, str], output: Path, run_id: str, attempt: int
) -> tuple[list[str], dict[str, str]]:
    """The command of the code, and its environment."""
    plan = job.plan
    output.mkdir(parents=True, exist_ok=True)
    plan_file = job.scratch / "plan.json"
    plan_file.write_text(json.dumps(plan.to_json(), ensure_ascii=False), encoding="utf-8")
    environment = handover.environment(inherited, plan, plan_file, run_id, attempt)
    environment |= job.rows
    environment |= {
        names.ENV_MODEL: str(job.start.folder),
        names.ENV_OUTPUT: str(output),
        names.ENV_CHECKPOINTS: str(job.checkpoints),
    }
    if checkpoint := handover.newest_checkpoint(job.checkpoints):
        environment[names.ENV_RESUME] = str(checkpoint)
    if plan.training.axolotl is None:
        return job.command, environment
    config = axolotl.write(plan, job.start.folder, _files(job), job.scratch, output)
    return axolotl.command(inherited, config), environment | axolotl.environment()


def _train_along(job: _Job, stop: StopSignal, inherited: Mapping[str, str]) -> Outcome:
    """Run the code as one of the workers that don't lead: the result is not theirs."""
    plan = job.plan
    # Where axolotl's checkpoints are, all of them must look.
    output = (job.results if plan.training.axolotl else job.scratch) / "output"
    attempt = int(inherited.get(ENV_ATTEMPT) or 1)
    command, environment = _given(job, inherited, output, "", attempt)
    grace = float(inherited.get(names.ENV_GRACE) or GRACE_SECONDS)
    kills = Kills()
    with kept_out():
        hide = redactor({**inherited, **environment})
        group = together.start(command, job.scratch, environment, plan, hide)
        ends = group.wait(stop, grace)
    together.check(ends, group, plan, short_of_memory=kills.some())
    return _trained_along(plan)


def _trained_along(plan: RunPlan) -> Outcome:
    message = f"worker {worker_of(plan)} trained along"
    return Outcome(status="succeeded", reason="Trained", message=message)


def _files(job: _Job) -> dict[str, Path]:
    """The files of the splits that there are."""
    variables = {"train": names.ENV_TRAIN_DATA, "eval": names.ENV_EVAL_DATA}
    return {split: Path(job.rows[name]) for split, name in variables.items() if name in job.rows}


def _finish(
    job: _Job,
    result: Found,
    steps: int,
    tracker: Tracker,
    held_out: data.Rows,
) -> Outcome:
    """Measure and upload the result."""
    plan = job.plan
    if plan.merge and result.kind != "adapter":
        raise RunError(
            "MergeNeedsAdapter",
            "output.merge is true, but the code left a whole model: remove merge, or save the"
            " adapter alone",
        )
    tokenizer = _tokenizer(job, result)
    rows, chat = _encoded(plan, held_out, tokenizer)
    limit = plan.training.evaluation.max_loss_rows
    chosen = some(len(held_out), limit, plan.dataset.splits.seed)
    with_loss = rows
    if len(chosen) < len(held_out):
        with_loss, _ = _encoded(plan, [held_out[at] for at in chosen], tokenizer)
    if rows.rows:
        log.info("%s", loss_rows(len(with_loss.rows), len(rows.rows)))

    from kubetune_runner.own_code.measure import measure
    from kubetune_runner.run_log import quieten

    quieten()
    measured = measure(
        plan, job.start, result, tokenizer, rows.rows, with_loss.rows, tracker.stages
    )
    metrics = dict(measured.tuned.metrics)
    if measured.baseline is not None:
        metrics |= measured.baseline.as_baseline()
    # The code may have logged others under these names.
    tracker.metrics(records.prefixed(metrics), steps)
    tracker.show(metrics)
    tracker.tags({TAG_METRICS: json.dumps(metrics)})
    tracker.stages.begin("merging" if plan.merge else "uploading")
    about: dict[str, Any] = {
        "chat": chat,
        "max_new_tokens": plan.training.evaluation.max_new_tokens,
    }
    describe(tokenizer, measured.dtype, result.folder, **about)
    whole = job.results / "merged" if plan.merge else None
    if whole is not None:
        dtype = merging.merge(job.start.base, job.start.folder, result.folder, whole)
        describe(tokenizer, dtype, whole, **about)
    saved = Saved(result.folder, whole)
    splits: dict[str, Counts] = {"train": job.train, "evaluation": rows}
    summary: dict[str, Any] = {
        "metrics": metrics,
        **upload_results(plan, tracker, saved, splits, measured.baseline, measured.tuned, metrics),
        **({"steps": steps} if steps else {}),
        **tracker.last_values(),
    }
    return Outcome(
        status="succeeded",
        reason="Trained",
        message=f"the code left {'an adapter' if result.kind == 'adapter' else 'a model'}"
        + (f" after {steps} steps" if steps else "")
        + job.note,
        summary=summary,
    )


def _tokenizer(job: _Job, result: Found) -> Any:
    """The tokenizer that the code left with the weights, else the model's with its changes."""
    plan, change = job.plan, job.plan.training.tokenizer
    if not (result.folder / "tokenizer_config.json").is_file():
        return loading.load_tokenizer(plan.model, job.start.tokenizer, change)
    tokenizer = loading.load_tokenizer(plan.model, result.folder)
    if change and change.chat_template and not tokenizer.chat_template:
        tokenizer.chat_template = change.chat_template
    return tokenizer


def _encoded(
    plan: RunPlan, rows: Sequence[data.Row], tokenizer: Any
) -> tuple[EncodedRows[EncodedRow], bool]:
    """The held-out rows, and whether they are chats; none where they make no text.

    What can't be measured doesn't cost a result that is there.
    """
    try:
        examples = prompts.make_examples(list(rows), plan.dataset, plan.prompt)
        chat = any(example.messages is not None for example in examples)
        limit = plan.training.hyperparameters.max_length
        return encode(examples, tokenizer, limit), chat
    except RunError as error:
        log.warning("the held-out rows aren't measured: %s", error)
        return EncodedRows[EncodedRow](), False
