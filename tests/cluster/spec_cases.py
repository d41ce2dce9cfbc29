"""Specs that the API server accepts, and others that it refuses with a message."""

from typing import Any

from api_client import spec_schema
from kubetune.api.kinds.table import BY_KIND
from kubetune.api.training.objective_settings import WITH_SETTINGS
from kubetune.api.training.objectives import LOGGED_NAMES, OBJECTIVES
from kubetune.api.training.trl_names import GOES_WITH
from pod_template_cases import ACCEPTED_TEMPLATES, REFUSED_TEMPLATES

Spec = dict[str, Any]

JOB: Spec = {"modelRef": {"name": "base"}, "datasetRef": {"name": "tickets"}}
HTTP: Spec = {"url": "https://host/rows.csv", "format": "csv"}
JSONL: Spec = {"claimName": "data", "glob": "*", "format": "jsonl"}
INLINE: Spec = {"source": {"inline": {"rows": [{"prompt": "a", "completion": "b"}]}}}
TARGET: Spec = {"kubernetes": {"image": "runner:1"}, "tracking": {"uri": "http://mlflow:5000"}}
HUB: Spec = {"repo": "owner/name"}


CANDIDATE: Spec = {"name": "a", "modelRef": {"name": "m"}}
FUNCTION: Spec = {"name": "words", "configMapRef": {"name": "m", "key": "words.py"}}
JUDGE: Spec = {"name": "help", "baseUrl": "https://llm.example.com/v1", "model": "large"}
TASK: Spec = {"name": "arcEasy", "task": "arc_easy"}
CHAMPION: Spec = {"name": "tickets", "alias": "champion"}


def promoted(rule: Spec, **registry: str) -> Spec:
    return JOB | {"output": {"registry": {"promoteWhen": [rule], **registry}}}


def evaluation(**fields: Any) -> Spec:
    return {"candidates": [CANDIDATE], "datasetRef": {"name": "d"}, **fields}


def better(**rival: str) -> Spec:
    return {"metric": "exactMatch", "betterThan": rival}


def job(**fields: Any) -> Spec:
    return {**JOB, **fields}


def source(**sources: Any) -> Spec:
    return {"source": sources}


def target(**fields: Any) -> Spec:
    return {"kubernetes": {**TARGET["kubernetes"], **fields}, "tracking": TARGET["tracking"]}


CML: Spec = {
    "url": "https://workspace.example.com",
    "project": "tuning",
    "apiKeySecretRef": {"name": "key"},
    "runtime": {"kernel": "Python 3.11"},
}


JUDGE_URL = "https://judge.example.com/v1"


def cml(tracking: Spec | None = None, **fields: Any) -> Spec:
    return {"cml": {**CML, **fields}, "tracking": tracking or TARGET["tracking"]}


VOLUME = {"claimName": "data", "glob": "*.csv", "format": "csv"}
TEMPLATE: Spec = {"prompt": "{q}", "completion": "{a}"}


def example(schema: Spec) -> Any:
    """Some value of a simple schema."""
    values = {"string": "x", "integer": 1, "number": 0.5, "boolean": True, "array": []}
    return schema["enum"][0] if "enum" in schema else values.get(schema["type"], {})


def argument(name: str) -> Any:
    """Some value of a free argument."""
    trl = spec_schema(BY_KIND["FineTuneJob"])["properties"]["trainer"]["properties"]["trl"]
    return example(trl["properties"]["arguments"]["properties"][name])


SCRIPT = {"configMapRef": {"name": "code", "key": "train.py"}}
CHAT = [{"role": "user", "content": "{q}"}, {"role": "assistant", "content": "{a}"}]


def trained(trainer: Spec, **fields: Any) -> Spec:
    return job(trainer=trainer, **fields)


# What a rule or a bound must refuse: kind, spec, what the message must contain.
REFUSED: list[tuple[str, Spec, str]] = [
    ("Dataset", source(), "give exactly one of huggingFace, volume, project, http, "),
    ("Dataset", source(huggingFace=HUB, volume=VOLUME), "give exactly one of huggingFace"),
    ("Dataset", source(inline={"rows": []}), "should have at least 1 items"),
    ("Dataset", source(volume=JSONL | {"csv": {"delimiter": ";"}}), "csv is for files of format"),
    ("Dataset", source(http=HTTP | {"csv": {"delimiter": '"'}}), "should match"),
    ("Dataset", source(http=HTTP | {"csv": {"delimiter": ";;"}}), "may not be more than 1"),
    *(
        (
            "Dataset",
            INLINE | {"format": format, "columns": {role: "other"}},
            f"columns.{role} is for format",
        )
        for role, format in {
            "prompt": "text",
            "completion": "text",
            "text": "messages",
            "messages": "text",
            "chosen": "text",
            "rejected": "text",
            "label": "text",
            "tools": "text",
        }.items()
    ),
    ("Dataset", INLINE | {"splits": {"evaluation": "t", "evaluationFraction": 0.3}}, "remove one"),
    ("Dataset", INLINE | {"splits": {"evaluationFraction": 0, "seed": 3}}, "holds out none"),
    ("Model", source(), "give exactly one of huggingFace, volume, project, registry"),
    ("Model", source(huggingFace=HUB, fineTuneJob={"name": "j"}), "give exactly one of hugging"),
    ("Model", source(registry={"name": "r"}), "give exactly one of version, alias"),
    ("Model", source(registry={"name": "r", "version": 1, "alias": "a"}), "one of version, alias"),
    ("Model", source(registry={"name": "..", "version": 1}), "MLflow registers no model of this"),
    ("Model", source(registry={"name": "r@a?b", "version": 1}), "spec.source.registry.name"),
    ("Model", source(registry={"name": "r", "alias": "latest"}), "MLflow reserves latest, and v"),
    ("PromptTemplate", {}, "give prompt and completion, or messages; with datasetRef alone"),
    ("PromptTemplate", {"prompt": "a"}, "completion goes with prompt"),
    ("PromptTemplate", {**TEMPLATE, "messages": CHAT}, "a template makes text or a chat"),
    ("PromptTemplate", {**TEMPLATE, "sample": True}, "sample needs datasetRef"),
    (
        "PromptTemplate",
        {"messages": [{"role": "user", "content": "a"}]},
        "messages need one with role assistant",
    ),
    ("ComputeTarget", {"tracking": TARGET["tracking"]}, "give exactly one of kubernetes"),
    (
        "ComputeTarget",
        {**TARGET, "tracking": {**TARGET["tracking"], "registry": {}}},
        "give prefix, allowedNames or trustedNamespaces",
    ),
    ("ComputeTarget", {**TARGET, "ownCode": "Maybe"}, "spec.ownCode: Unsupported value"),
    (
        "ComputeTarget",
        {**TARGET, "ownCodeVariables": ["A", "KUBETUNE_JUDGE_KEY_0"]},
        "variables that begin with KUBETUNE_ are the run's own",
    ),
    ("ComputeTarget", {**TARGET, "allowed": {}}, "give secrets or claims"),
    (
        "ComputeTarget",
        {**TARGET, "allowed": {"secrets": [{"name": "s", "uses": ["data"]}]}},
        "spec.allowed.secrets[0].uses[0]",
    ),
    (
        "ComputeTarget",
        {**TARGET, "allowed": {"claims": [{"name": "c", "uses": []}]}},
        "spec.allowed.claims[0].uses",
    ),
    (
        "ComputeTarget",
        {**TARGET, "tracking": {"uri": "http://me:secret@host"}},
        "credentials don't belong in an address",
    ),
    (
        "ComputeTarget",
        target(env=[{"name": "A", "value": "b", "valueFrom": {"secretKeyRef": {}}}]),
        "spec.kubernetes.env[0].valueFrom.secretKeyRef.name: Required value",
    ),
    (
        "ComputeTarget",
        target(
            env=[
                {
                    "name": "A",
                    "value": "b",
                    "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
                }
            ]
        ),
        "give at most one of value, valueFrom",
    ),
    (
        "ComputeTarget",
        target(env=[{"name": "A", "valueFrom": {}}]),
        "give exactly one of configMapKeyRef, secretKeyRef",
    ),
    ("ComputeTarget", target(env=[{"name": "A"}, {"name": "A"}]), "Duplicate value"),
    ("ComputeTarget", target(envFrom=[{}]), "give exactly one of configMapRef, secretRef"),
    ("ComputeTarget", target(gpuLabels=[{"key": "a"}, {"key": "a"}]), "Duplicate value"),
    ("ComputeTarget", target(gpuLabels=[{"key": "a", "values": []}]), "values"),
    ("ComputeTarget", target(gpuLabels=[{"key": "a b"}]), "key"),
    (
        "ComputeTarget",
        target(nodeSelector={"a": "b"}, resources={"gpuLabel": {"a": "c"}}),
        "nodeSelector and resources.gpuLabel give one label two values",
    ),
    ("ComputeTarget", target(nodeSelector={"a b": "c"}), "a label key is a name of at most"),
    ("ComputeTarget", {**TARGET, "tracking": {}}, "give the address of the MLflow server"),
    (
        "ComputeTarget",
        {**TARGET, "tracking": {"type": "cml"}},
        "type cml needs a target in CML: give spec.cml, or type mlflow and its uri",
    ),
    (
        "ComputeTarget",
        cml({"type": "cml", "uri": "http://mlflow:5000"}),
        "type cml uses address, key and certificates of spec.cml: leave uri,",
    ),
    (
        "ComputeTarget",
        cml(url="https://me:secret@host"),
        "credentials don't belong in an address; use apiKeySecretRef",
    ),
    (
        "ComputeTarget",
        cml(createProject={"url": "https://me:secret@host/x.git"}),
        "credentials don't belong in an address; give the workspace's project a deploy key",
    ),
    ("ComputeTarget", cml(runtime={}), "give exactly one of identifier, kernel"),
    (
        "ComputeTarget",
        cml(runtime={"identifier": "image:1", "version": "1"}),
        "identifier says it all: leave edition, editor and version out",
    ),
    (
        "ComputeTarget",
        cml(poll={"minSeconds": 20, "maxSeconds": 10}),
        "minSeconds must not be above maxSeconds",
    ),
    ("ComputeTarget", cml(env=[{"name": "1A", "value": "b"}]), "should match"),
    *(
        (
            "ComputeTarget",
            cml(judgeKeys=[{"variable": name, "baseUrls": [JUDGE_URL]}]),
            "own, such as",
        )
        for name in ("CDSW_APIV2_KEY", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "KUBETUNE_PLAN_DATA")
    ),
    (
        "ComputeTarget",
        cml(
            judgeKeys=[{"variable": "READ_TOKEN", "baseUrls": [JUDGE_URL]}],
            hubTokenVariable="READ_TOKEN",
        ),
        "a variable of hubTokenVariable or requiredVariables is no judge's",
    ),
    (
        "ComputeTarget",
        cml(
            judgeKeys=[{"variable": "DATABASE", "baseUrls": [JUDGE_URL]}],
            requiredVariables=["OTHER", "DATABASE"],
        ),
        "a variable of hubTokenVariable or requiredVariables is no judge's",
    ),
    (
        "ComputeTarget",
        cml(judgeKeys=[{"variable": "JUDGE", "baseUrls": ["https://me:secret@host/v1"]}]),
        "should match",
    ),
    ("ComputeTarget", cml(judgeKeys=[{"variable": "JUDGE", "baseUrls": []}]), "at least 1"),
    ("FineTuneJob", job(method={"type": "full", "lora": {"rank": 8}}), "lora settings go with"),
    (
        "FineTuneJob",
        job(objective="dpo", continueFrom="adapter"),
        "continueFrom adapter goes with objective sft",
    ),
    ("FineTuneJob", job(objective="reward", continueFrom="merged"), "leaves one that scores it"),
    ("FineTuneJob", job(objective="reward", output={"merge": True}), "leaves one that scores it"),
    ("FineTuneJob", job(objective="kto", data={"longRows": "drop"}), "data.longRows goes with"),
    ("FineTuneJob", job(tokenizer={"chatTemplate": "chatlm"}), "or the text of a Jinja template"),
    (
        "FineTuneJob",
        job(workers=1, strategy="ddp"),
        "set workers, resources.gpu or resources.processes, or remove it",
    ),
    (
        "FineTuneJob",
        job(resources={"processes": 3, "gpu": 2}),
        "each GPU has one process: remove processes, or set gpu to 0",
    ),
    ("FineTuneJob", job(resources={"processes": 0}), "greater than or equal to 1"),
    (
        "ComputeTarget",
        target(resources={"processes": 1, "gpu": 2}),
        "each GPU has one process",
    ),
    (
        "Evaluation",
        evaluation(metrics=["exactMatch"], resources={"processes": 2}),
        "each candidate is measured by one process",
    ),
    (
        "Evaluation",
        evaluation(metrics=["exactMatch"], resources={"processes": 1, "gpu": 2}),
        "each GPU has one process",
    ),
    (
        "FineTuneJob",
        job(workers=2, strategy="fsdp2", method={"type": "qlora", "quantization": {"bits": 8}}),
        "weights of 8 bits can't be sharded: use ddp",
    ),
    ("FineTuneJob", trained({"trl": {}, "script": SCRIPT}), "at most one of trl, axolotl, script"),
    ("FineTuneJob", trained({"script": {}}), "give exactly one of configMapRef, path"),
    ("FineTuneJob", trained({"axolotl": {}}), "give exactly one of config, configMapRef"),
    ("FineTuneJob", trained({"script": {"path": "/code/../x.py"}}), "may not lead upwards"),
    ("FineTuneJob", trained({"script": SCRIPT}, objective="dpo"), "whatever a script optimises"),
    (
        "FineTuneJob",
        trained({"script": SCRIPT}, onOutOfMemory="HalveBatch"),
        "what batches a script makes is its own",
    ),
    (
        "FineTuneJob",
        trained({"script": SCRIPT}, continueFrom="merged"),
        "start from a base model; remove continueFrom",
    ),
    ("FineTuneJob", job(continueFrom="base"), 'supported values: "adapter", "merged"'),
    ("FineTuneJob", job(continueFrom="adapter", method={"type": "full"}), "use lora or qlora, or"),
    (
        "FineTuneJob",
        job(method={"type": "full"}, output={"merge": True}),
        "output.merge goes with methods lora and qlora",
    ),
    (
        "FineTuneJob",
        job(continueFrom="merged", output={"merge": True}),
        "the result is a merged model already",
    ),
    (
        "FineTuneJob",
        job(output={"registry": {"mergedName": "whole"}}),
        "set merge to true, or remove it",
    ),
    (
        "FineTuneJob",
        job(output={"merge": True, "registry": {"name": "a", "mergedName": "a"}}),
        "mergedName must differ from name",
    ),
    (
        "FineTuneJob",
        job(method={"type": "lora", "quantization": {"bits": 4}}),
        "quantization goes with type qlora",
    ),
    (
        "FineTuneJob",
        job(method={"type": "qlora", "quantization": {"bits": 8, "type": "nf4"}}),
        "type, doubleQuantization and computeDtype go with 4 bits",
    ),
    *(
        ("FineTuneJob", job(**{name: {}}), f"{name} settings go with objective {name}")
        for name in WITH_SETTINGS
    ),
    *(
        (
            "FineTuneJob",
            job(objective=other, trainer={"trl": {"arguments": {name: argument(name)}}}),
            f"trainer.trl.arguments.{name} goes with objective {' or '.join(takers)}; remove it",
        )
        for name, takers in GOES_WITH.items()
        for other in OBJECTIVES
        if other not in takers
    ),
    ("FineTuneJob", job(objective="dpo", promptRef={"name": "p"}), "remove promptRef"),
    (
        "FineTuneJob",
        job(objective="kto", hyperparameters={"packing": True}),
        "hyperparameters.packing goes with objective sft; remove it",
    ),
    ("FineTuneJob", job(objective="dpo", evaluation={"maxRows": 1}), "evaluation.maxRows goes"),
    (
        "FineTuneJob",
        job(objective="reward", evaluation={"maxNewTokens": 1}),
        "a reward model generates nothing; remove evaluation.maxNewTokens",
    ),
    (
        "FineTuneJob",
        job(objective="kto", evaluation={"baseline": True}),
        "objectives dpo and kto measure against the untrained model already",
    ),
    ("FineTuneJob", job(objective="dpo", dpo={"beta": 0}), "should be greater than 0"),
    ("FineTuneJob", job(objective="dpo", dpo={"lossType": "ipo"}), "must be of type array"),
    ("FineTuneJob", job(objective="grpo"), 'supported values: "sft", "dpo", "kto", "reward"'),
    ("FineTuneJob", job(method={"lora": {"rank": -1}}), "greater than or equal to 1"),
    (
        "FineTuneJob",
        job(method={"type": "lora", "full": {"weights": "bf16"}}),
        "full settings go with type full",
    ),
    (
        "FineTuneJob",
        job(method={"full": {"weights": "bf16"}, "lora": {"rank": 8}}),
        "full settings go with type full",
    ),
    ("FineTuneJob", job(method={"full": {"weights": "fp16"}}), "supported values"),
    ("FineTuneJob", job(method={"lora": {"rank": "8"}}), "must be of type integer"),
    (
        "FineTuneJob",
        job(hyperparameters={"epochs": 1, "maxSteps": 10}),
        "give at most one of epochs, maxSteps",
    ),
    ("FineTuneJob", job(hyperparameters={"learningRate": 0}), "should be greater than 0"),
    (
        "FineTuneJob",
        job(hyperparameters={"perDeviceBatchSize": 0}),
        "should be greater than or equal to 1",
    ),
    ("FineTuneJob", job(hyperparameters={"perDeviceBatchSize": "large"}), "should match '^auto$'"),
    (
        "FineTuneJob",
        job(hyperparameters={"gradientCheckpointing": "sometimes"}),
        "hyperparameters.gradientCheckpointing: Unsupported value",
    ),
    ("FineTuneJob", job(resources={"gpuLabel": {"-": "x"}}), "a label key is a name of at most"),
    ("FineTuneJob", {"modelRef": {"name": "m"}}, "spec.datasetRef: Required value"),
    (
        "FineTuneJob",
        job(objective="dpo", dpo={"labelSmoothing": 0.1, "lossType": ["ipo"]}),
        "labelSmoothing acts on losses robust, exo_pair, aot and aot_unpaired alone",
    ),
    (
        "FineTuneJob",
        job(hyperparameters={"warmup": 0.1, "scheduler": "constant"}),
        "scheduler constant has no warm-up",
    ),
    ("FineTuneJob", job(data={"fraction": 1, "seed": 1}), "with fraction 1 all train: remove it"),
    *(
        (
            "FineTuneJob",
            promoted({"metric": logged, "max": 1}, alias="a"),
            f"{logged} is called {name} here",
        )
        for logged, name in LOGGED_NAMES.items()
        if logged in ("exact_match", "baseline_token_f1", "eval_rewards/margins")
    ),
    *(
        (
            "FineTuneJob",
            promoted({"metric": "no_such", "max": 1}, alias="a") | {"objective": name},
            f"with objective {name} promoteWhen may ask for {', '.join(facts.final_metrics)}",
        )
        for name, facts in OBJECTIVES.items()
    ),
    ("Evaluation", evaluation(generation={"topP": 0.5}), "topP is about sampling, and temperature"),
    ("FineTuneJob", promoted({"metric": "loss", "max": 1}), "give the alias too"),
    ("FineTuneJob", promoted({"metric": "loss"}, alias="a"), "give exactly one of min, max"),
    ("FineTuneJob", job(output={"registry": {"alias": "v1"}}), "MLflow reserves latest, and v"),
    ("FineTuneJob", job(output={"registry": {"alias": "LATEST"}}), "MLflow reserves latest, and v"),
    ("FineTuneJob", job(output={"registry": {"name": " "}}), "MLflow registers no model of this"),
    ("FineTuneJob", job(output={"registry": {"name": "'\""}}), "both kinds of quotes"),
    (
        "FineTuneJob",
        job(output={"merge": True, "registry": {"mergedName": "."}}),
        "MLflow registers no model of this name",
    ),
    ("Evaluation", evaluation(promote={**CHAMPION, "alias": "V2"}), "MLflow reserves latest, and"),
    ("Evaluation", evaluation(promote={**CHAMPION, "name": "..a"}), "MLflow registers no model"),
    ("Evaluation", evaluation(thresholds=[{"metric": "loss", "max": 1}]), "add it there"),
    ("Evaluation", evaluation(thresholds=[{"metric": "tokenF1"}]), "give exactly one of min, max"),
    ("Evaluation", evaluation(thresholds=[better(candidate="b")]), "only candidates of spec"),
    ("Evaluation", evaluation(promote={**CHAMPION, "candidate": "b"}), "only a candidate of spec"),
    ("Evaluation", evaluation(thresholds=[better(alias="champion")]), "must be the alias of"),
    ("Evaluation", evaluation(metrics=["loss", "loss"]), "each metric may stand here once"),
    ("Evaluation", evaluation(metrics=["length"]), "no length is better than another"),
    ("Evaluation", evaluation(candidates=[CANDIDATE, CANDIDATE]), "Duplicate value"),
    ("Evaluation", evaluation(metrics=["speed"]), "a metric is one of loss, perplexity"),
    ("Evaluation", evaluation(functions=[FUNCTION]), "add it there"),
    ("Evaluation", evaluation(functions=[{**FUNCTION, "name": "bleu"}]), "another one"),
    ("Evaluation", evaluation(tasks=[TASK]), "a task is run when its name is one of"),
    ("Evaluation", evaluation(tasks=[TASK | {"name": "bleu"}]), "give the task another one"),
    (
        "Evaluation",
        evaluation(tasks=[TASK], functions=[FUNCTION | {"name": "arcEasy"}], metrics=["arcEasy"]),
        "a function or judge of this name exists; give the task another one",
    ),
    ("Evaluation", evaluation(judges=[JUDGE]), "add it there"),
    (
        "Evaluation",
        evaluation(judges=[{**JUDGE, "baseUrl": "https://me:key@h/v1"}], metrics=["help"]),
        "credentials don't belong in an address",
    ),
    ("Evaluation", evaluation(judges=[{**JUDGE, "name": "bleu"}]), "give the judge another one"),
    (
        "Evaluation",
        evaluation(judges=[{**JUDGE, "scale": {"min": 5, "max": 5}}], metrics=["help"]),
        "must be above min",
    ),
    ("Evaluation", evaluation(thresholds=[better()]), "exactly one of candidate, alias"),
    ("Evaluation", evaluation(resources={"gpuLabel": {"a b": "c"}}), "a label key is a name"),
    ("Evaluation", evaluation(candidates=[]), "should have at least 1 items"),
    *(
        ("ComputeTarget", target(podTemplate=template), message)
        for template, message in REFUSED_TEMPLATES
    ),
    (
        "ClusterComputeTarget",
        target(podTemplate={"extendedResources": {"nvidia.com/gpu": "1"}}),
        "ask by resources.gpu",
    ),
    (
        "ComputeTarget",
        target(
            gpuResourceName="amd.com/gpu",
            podTemplate={"extendedResources": {"amd.com/gpu": "1"}},
        ),
        "ask by resources.gpu, and name the resource in gpuResourceName",
    ),
    ("ComputeTarget", target(gpuResourceName="cpu"), "should match"),
    ("ComputeTarget", target(ephemeralStorage="much"), "should match"),
    (
        "ComputeTarget",
        target(nodeSelector={"a..b/pool": "x"}),
        "a label key is a name of at most 63",
    ),
]

ACCEPTED: list[tuple[str, Spec]] = [
    ("Dataset", INLINE),
    ("Dataset", INLINE | {"columns": {"prompt": "question", "completion": "answer"}}),
    ("Dataset", INLINE | {"format": "preference", "columns": {"prompt": "q", "chosen": "a"}}),
    ("Dataset", INLINE | {"format": "messages", "columns": {"messages": "chat", "tools": "t"}}),
    ("Dataset", INLINE | {"splits": {"evaluation": "t", "evaluationFraction": 0}}),
    ("Dataset", INLINE | {"splits": {"evaluationFraction": 0.3, "seed": 3}}),
    ("Dataset", INLINE | {"splits": {"evaluation": "t", "seed": 3}}),
    ("Dataset", INLINE | {"splits": {"seed": 3}}),
    ("Dataset", source(volume=VOLUME)),
    ("Dataset", source(project={"glob": "data/*.csv", "format": "csv"})),
    ("Dataset", source(http=HTTP)),
    ("Dataset", source(http=HTTP | {"csv": {"delimiter": "\t"}})),
    ("Dataset", source(huggingFace=HUB | {"csv": {"delimiter": "|"}})),
    ("Dataset", source(configMap={"name": "rows", "key": "rows.jsonl"})),
    ("Dataset", source(huggingFace=HUB)),
    ("Dataset", source(inline={"rows": [{"a": None, "b": [1, {"c": True}], "d": 0.5}]})),
    ("Model", source(huggingFace=HUB)),
    ("Model", source(volume={"claimName": "models"})),
    ("Model", source(registry={"name": "r", "version": 3})),
    ("Model", source(registry={"name": "r", "alias": "champion"})),
    ("Model", source(project={"path": "models/base"})),
    ("Model", source(fineTuneJob={"name": "j"})),
    ("PromptTemplate", TEMPLATE),
    ("PromptTemplate", {"datasetRef": {"name": "d"}}),
    ("PromptTemplate", {**TEMPLATE, "sample": True, "datasetRef": {"name": "d"}}),
    ("PromptTemplate", {"messages": [{"role": "assistant", "content": "{a}"}]}),
    ("PromptTemplate", {"prompt": "질문 – ё\u0301 🙂" * 160, "completion": "{a}"}),
    ("ComputeTarget", TARGET),
    ("ComputeTarget", target(nodeSelector={"nvidia.com/gpu.product": "H100"}, env=[{"name": "A"}])),
    *(("ComputeTarget", target(podTemplate=template)) for template in ACCEPTED_TEMPLATES),
    ("ComputeTarget", cml()),
    ("ComputeTarget", cml(judgeKeys=[{"variable": "JUDGE_KEY", "baseUrls": [JUDGE_URL]}])),
    ("ComputeTarget", cml({"type": "cml"}, env=[{"name": "A", "value": ""}], poll={})),
    ("ClusterComputeTarget", TARGET),
    ("ClusterComputeTarget", cml(runtime={"identifier": "image:1"})),
    ("FineTuneJob", JOB),
    ("FineTuneJob", job(method={"type": "full"}, hyperparameters={"maxSteps": 3})),
    ("FineTuneJob", job(method={"full": {"weights": "bf16"}})),
    (
        "FineTuneJob",
        job(hyperparameters={"perDeviceBatchSize": "auto", "gradientCheckpointing": "auto"}),
    ),
    ("FineTuneJob", job(hyperparameters={"gradientCheckpointing": False})),
    ("FineTuneJob", job(method={"lora": {"rank": 8}}, hyperparameters={"epochs": 0.5})),
    ("FineTuneJob", job(method={"type": "qlora", "lora": {"useDora": True}})),
    ("FineTuneJob", job(continueFrom="merged", method={"type": "full"})),
    ("FineTuneJob", job(continueFrom="merged", objective="dpo")),
    ("FineTuneJob", job(data={"longRows": "drop", "fraction": 0.5})),
    ("FineTuneJob", job(continueFrom="adapter", output={"merge": True, "registry": {}})),
    ("FineTuneJob", job(method={"quantization": {"bits": 8}, "lora": {"modulesToSave": []}})),
    ("FineTuneJob", job(trainer={"trl": {"arguments": {"adam_beta2": 0.95, "optim": "sgd"}}})),
    (
        "FineTuneJob",
        job(
            objective="dpo",
            dpo={"beta": 1, "lossType": ["sigmoid", "sft"], "lossWeights": [1, 0.5]},
            trainer={"trl": {"arguments": {"precompute_ref_log_probs": True}}},
            evaluation={"maxNewTokens": 8, "baseline": False},
        ),
    ),
    ("FineTuneJob", job(objective="kto", kto={"desirableWeight": 2})),
    ("FineTuneJob", job(objective="reward", reward={}, evaluation={"baseline": True})),
    ("TuningProfile", {"dpo": {"beta": 0.2}, "kto": {"beta": 0.1}}),
    ("FineTuneJob", promoted({"metric": "evalLoss", "max": 1}, alias="champion")),
    ("Evaluation", evaluation()),
    ("Evaluation", evaluation(functions=[FUNCTION], metrics=["words", "loss"])),
    (
        "Evaluation",
        evaluation(functions=[FUNCTION], judges=[JUDGE], metrics=["help", "words"]),
    ),
    (
        "Evaluation",
        evaluation(
            tasks=[TASK | {"metric": "acc,none", "limit": 9, "configMapRef": {"name": "t"}}],
            metrics=["arcEasy", "loss"],
            thresholds=[{"metric": "arcEasy", "min": 0.5}],
        ),
    ),
    ("Evaluation", evaluation(thresholds=[{"metric": "loss", "max": 1}], metrics=["loss"])),
    ("Evaluation", evaluation(promote=CHAMPION, thresholds=[better(alias="champion")])),
    ("Evaluation", evaluation(thresholds=[better(candidate="a")], generation={"topP": 1})),
    ("Evaluation", evaluation(generation={"topP": 0.5, "temperature": 1})),
    ("Evaluation", evaluation(metrics=["bitsPerByte"])),
    ("FineTuneJob", promoted({"metric": "baselineTokenF1", "max": 1}, alias="champion-v1")),
    ("FineTuneJob", job(objective="dpo", dpo={"labelSmoothing": 0.1})),
    ("FineTuneJob", job(data={"fraction": 0.5, "seed": 1}, hyperparameters={"warmup": 0.1})),
    ("TuningProfile", {"hyperparameters": {"learningRate": 1e-4}}),
    ("ClusterTuningProfile", {}),
]
