"""Why a job isn't submitted: one table of named cases, and what is submitted in the end."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import (
    COMMIT,
    DATASET_FOUND,
    MISSING_TARGET,
    MODEL_FOUND,
    NOW,
    RUN_KEY,
    condition_of,
    dataset,
    job,
    kstatus,
    model,
    names,
    observed_job,
    prompt,
    ready,
    resource,
    target,
)
from kubetune.api.conditions import Reason
from kubetune.api.run.plan import RunPlan
from kubetune.decide.consent import Lacking
from kubetune.decide.decision import Record, Stamp, StartRun
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.target.place import record
from kubetune.names import FINALIZER

PROMPT: dict[str, Any] = {"promptRef": {"name": "plain"}}
PROFILE: dict[str, Any] = {"profileRef": {"name": "house"}}
PREFERENCE = [{"name": name, "type": "string"} for name in ("prompt", "chosen", "rejected")]


def pairs(*columns: str) -> Any:
    """A ready Dataset of format preference."""
    found = [{"name": name, "type": "string"} for name in columns] or PREFERENCE
    return ready(dataset({"format": "preference"}), **(DATASET_FOUND | {"columns": found}))


def rated() -> Any:
    """A ready Dataset of format unpairedPreference."""
    found = [{"name": name, "type": "string"} for name in ("prompt", "completion", "label")]
    return ready(dataset({"format": "unpairedPreference"}), **(DATASET_FOUND | {"columns": found}))


@dataclass
class Case:
    name: str
    because: str
    phase: str
    reason: str
    verdict: str
    around: dict[str, Any]
    spec: dict[str, Any] = field(default_factory=dict[str, Any])
    requeue: float | None = None
    says: str = ""


def waits(name: str, phase: str, reason: str, around: dict[str, Any], **more: Any) -> Case:
    return Case(name, "it may come", phase, reason, "InProgress", around, **more)


def refused(name: str, because: str, reason: str, around: dict[str, Any], **more: Any) -> Case:
    return Case(name, because, "Pending", reason, "Failed", around, **more)


CASES = [
    waits("no Model", "Pending", "ModelMissing", {"model": None}, says="waiting for Model base"),
    waits("no Dataset", "Pending", "DatasetMissing", {"dataset": None}),
    waits("no PromptTemplate", "Pending", "PromptTemplateMissing", {}, spec=PROMPT),
    waits("no profile", "Pending", "TuningProfileMissing", {}, spec=PROFILE),
    waits("no target", "Pending", "TargetMissing", {"target": MISSING_TARGET}),
    waits("Model not ready", "Preparing", "ModelNotReady", {"model": model()}),
    waits(
        "Model of an older spec",
        "Preparing",
        "ModelNotReady",
        {"model": ready(model(generation=2), **MODEL_FOUND, observedGeneration=1)},
    ),
    waits("Dataset not ready", "Preparing", "DatasetNotReady", {"dataset": dataset()}),
    waits(
        "PromptTemplate not ready",
        "Preparing",
        "PromptTemplateNotReady",
        {"prompt": prompt()},
        spec=PROMPT,
    ),
    waits("target not ready", "Preparing", "TargetNotReady", {"target": target(ready=False)}),
    waits(
        "no Secret",
        "Preparing",
        "SecretMissing",
        {"lacking": Lacking(Reason.SECRET_MISSING, "waiting for Secret hub in namespace team")},
        requeue=2,
    ),
    refused(
        "output Model taken",
        "two jobs would write one Model",
        "OutputModelTaken",
        {"output_rival": "Model out exists already"},
        requeue=30,
    ),
    refused(
        "Model is an adapter",
        "adapters are trained on base models",
        "InputsRefused",
        {"model": ready(model(), **(MODEL_FOUND | {"type": "adapter"}))},
        says="spec.modelRef",
    ),
    refused(
        "unreadable profile",
        "its settings would be lost in silence",
        "InputsRefused",
        {"profile": resource("TuningProfile", "house", None)},
        spec=PROFILE,
    ),
    refused(
        "longer than the model reads",
        "the user asked for it, so it isn't cut in silence",
        "InputsRefused",
        {},
        spec={"hyperparameters": {"maxLength": 4096}},
        says="maxLength 4096 is above the context length 2048",
    ),
    refused(
        "slot without a column",
        "training would fail at the first row",
        "SlotUnknown",
        {"prompt": ready(prompt({"prompt": "{question}"}))},
        spec=PROMPT,
        says="{question}",
    ),
    refused(
        "columns don't fit the format",
        "training would fail at the first row",
        "FormatMismatch",
        {"dataset": ready(dataset({"format": "messages"}), **DATASET_FOUND)},
        says="spec.columns.messages",
    ),
    refused(
        "no row can be used",
        "a pod would start only to fail",
        "FormatMismatch",
        {
            "dataset": ready(
                dataset(),
                **DATASET_FOUND
                | {
                    "checks": {"trainableRows": 0},
                    "problems": [{"row": 3, "message": "'completion' is a map, not text"}],
                },
            )
        },
        says="none of the rows of Dataset tickets that train can be used, such as row 3:"
        " 'completion' is a map",
    ),
    refused(
        "preference pairs",
        "sft can't learn from them as they are",
        "FormatMismatch",
        {
            "dataset": ready(
                dataset({"format": "preference"}), **(DATASET_FOUND | {"columns": PREFERENCE})
            )
        },
        says="objective sft can't learn from Dataset tickets, which has format preference and the"
        " columns prompt, chosen, rejected: use objective dpo or reward, or a Dataset of format"
        " promptCompletion (columns prompt, completion) or text (columns text) or messages"
        " (columns messages), or name a PromptTemplate in spec.promptRef that makes text of the"
        " chosen column",
    ),
    refused(
        "prompts for dpo",
        "there is nothing to prefer",
        "FormatMismatch",
        {},
        spec={"objective": "dpo"},
        says="objective dpo can't learn from Dataset tickets, which has format promptCompletion"
        " and the columns prompt, completion: use objective sft, or a Dataset of format"
        " preference (columns chosen, rejected)",
    ),
    refused(
        "chats for reward",
        "there is nothing to prefer",
        "FormatMismatch",
        {"dataset": ready(dataset({"format": "messages"}), **DATASET_FOUND)},
        spec={"objective": "reward"},
        says="use objective sft, or a Dataset of format preference",
    ),
    refused(
        "a chat template for rows that are no chats",
        "nothing would use it",
        "InputsRefused",
        {},
        spec={"tokenizer": {"chatTemplate": "plain"}},
        says="tokenizer.chatTemplate makes text of chats, and the rows of this job aren't chats",
    ),
    refused(
        "the template of a model that has none",
        "the run would find out much later",
        "InputsRefused",
        {
            "dataset": ready(
                dataset({"format": "messages"}),
                **(DATASET_FOUND | {"columns": [{"name": "messages", "type": "messages"}]}),
            ),
            "model": ready(model(), **(MODEL_FOUND | {"chatTemplate": False})),
        },
        spec={"tokenizer": {"chatTemplate": "model"}},
        says="the tokenizer of Model base has no chat template: set it to plain, chatml",
    ),
    refused(
        "pairs for kto",
        "answers are not labelled",
        "FormatMismatch",
        {"dataset": pairs()},
        spec={"objective": "kto"},
        says="format unpairedPreference (columns prompt, completion, label)",
    ),
    refused(
        "no column of rejected answers",
        "training would have nothing to compare",
        "FormatMismatch",
        {"dataset": pairs("prompt", "chosen", "worse")},
        spec={"objective": "dpo"},
        says="no column 'rejected'; its columns are chosen, prompt, worse: map it in"
        " spec.columns.rejected of the Dataset",
    ),
    refused(
        "a reward model as a start",
        "it has no layer that generates",
        "InputsRefused",
        {"model": ready(model(), **(MODEL_FOUND | {"architecture": "XForSequenceClassification"}))},
        says="Model base scores texts and generates none",
    ),
    refused(
        "biases in the reference",
        "the comparison would move along",
        "InputsRefused",
        {"dataset": pairs()},
        spec={"objective": "dpo", "method": {"lora": {"bias": "all"}}},
        says="method.lora.bias",
    ),
    refused(
        "weights for other losses",
        "which loss they belong to isn't known",
        "InputsRefused",
        {"dataset": pairs()},
        spec={"objective": "dpo", "dpo": {"lossWeights": [0.5, 0.5]}},
        says="dpo.lossWeights has 2 items and dpo.lossType 1 (sigmoid)",
    ),
    refused(
        "exo_pair without smoothing",
        "its loss is infinite",
        "InputsRefused",
        {"dataset": pairs()},
        spec={"objective": "dpo", "dpo": {"lossType": ["exo_pair"]}},
        says="dpo.labelSmoothing",
    ),
    refused(
        "kto one by one",
        "its loss compares rows",
        "InputsRefused",
        {"dataset": rated()},
        spec={"objective": "kto", "hyperparameters": {"perDeviceBatchSize": 1}},
        says="set it to 2 or more, or kto.lossType to apo_zero_unpaired",
    ),
    refused(
        "registry of another kind",
        "runs reach the target's own registry alone",
        "RegistryProviderMismatch",
        {},
        spec={"output": {"registry": {"provider": "cml"}}},
        says="spec.output.registry.provider is cml, but spec.tracking.type of the compute target"
        " is mlflow",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_not_submitted(case: Case) -> None:
    decision = decide(observed_job(job(case.spec), **case.around), NOW)
    status = decision.status or {}
    assert decision.actions == (), case.because
    assert status["phase"] == case.phase, case.because
    assert condition_of(status, "Ready") == ("False", case.reason), case.because
    assert condition_of(status, "InputsReady") == ("False", case.reason)
    assert kstatus(status, 1) == case.verdict, case.because
    assert decision.requeue_after == case.requeue
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Ready")
    assert case.says in message


def test_first_submission() -> None:
    observed = observed_job(job(finalizers=()), stamped=False, started=None)
    decision = decide(observed, NOW)
    status = decision.status or {}
    stamp, recorded, start = decision.actions
    assert recorded == Record("external", status["external"]), "a crash must not lose the place"
    assert stamp == Stamp(finalizer=True, run_key=RUN_KEY, fresh=True), "before any other effect"
    assert isinstance(start, StartRun)
    assert (start.request.run_key, start.request.attempt) == (RUN_KEY, 1)
    plan = RunPlan.model_validate(start.request.plan)
    assert plan.model.revision == COMMIT
    assert plan.dataset.digest == DATASET_FOUND["digest"]
    assert plan.lineage_digest == status["lineage"]["digest"]
    assert status["phase"] == "Queued"
    assert status["effective"]["hyperparameters"]["epochs"] == 3.0
    assert status["external"] == record(observed.target, "team")
    assert condition_of(status, "InputsReady") == ("True", "InputsReady")
    assert condition_of(status, "Submitted") == ("True", "Queued")
    assert kstatus(status, 1) == "InProgress"


def test_stamped_job_is_not_stamped_again() -> None:
    assert names(decide(observed_job(job(finalizers=(FINALIZER,))), NOW)) == ["StartRun"]


def test_columns_cut_short_are_not_refused() -> None:
    cut = DATASET_FOUND | {"columnsTruncated": True}
    observed = observed_job(dataset=ready(dataset({"format": "messages"}), **cut))
    assert names(decide(observed, NOW)) == ["StartRun"]


@pytest.mark.parametrize(
    ("spec", "rows", "rate", "own"),
    [
        ({}, None, 2e-4, None),
        ({"objective": "dpo"}, pairs(), 5e-6, {"dpo": {"beta": 0.1}}),
        ({"objective": "dpo", "method": {"type": "full"}}, pairs("chosen", "rejected"), 5e-7, {}),
        ({"objective": "kto", "kto": {"beta": 0.3}}, rated(), 5e-6, {"kto": {"beta": 0.3}}),
        ({"objective": "reward"}, pairs(), 1e-4, {"reward": {}}),
    ],
)
def test_objectives_and_what_is_in_force(
    spec: dict[str, Any], rows: Any, rate: float, own: dict[str, Any] | None
) -> None:
    around = {} if rows is None else {"dataset": rows}
    decision = decide(observed_job(job(spec), **around), NOW)
    (start,) = decision.actions
    assert isinstance(start, StartRun)
    training = RunPlan.model_validate(start.request.plan).training
    effective = (decision.status or {})["effective"]
    assert training.objective == spec.get("objective", "sft")
    assert training.hyperparameters.learning_rate == rate
    assert effective["hyperparameters"]["learningRate"] == rate
    found = {name: effective[name] for name in ("dpo", "kto", "reward") if name in effective}
    assert set(found) == ({spec["objective"]} if own is not None else set())
    for name, given in (own or {}).items():
        assert found[name] | given == found[name]
    assert "maxRows" not in effective["evaluation"] or training.objective == "sft"
