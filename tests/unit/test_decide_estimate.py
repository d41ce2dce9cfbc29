"""What a job takes, whether it fits, and which setting helps."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, assert_fits, condition_of, job, model, observed_job, ready
from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune.api import JsonObject
from kubetune.api.training.settings import merge
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.memory.estimate import advice, estimate, longest_row, misfit, quantity, savings
from kubetune.decide.memory.peak import MIB, Memory, memory, sizes_of, trainable_parameters
from kubetune.decide.settings.effective import effective_settings
from kubetune.targets.quantities import amount


def llama(hidden: int = 576, inner: int = 1536, layers: int = 30, heads: int = 9) -> Any:
    """Status of a Model of the shape of SmolLM2-135M."""
    key_value, vocabulary = hidden // 3, 49152
    shapes = {
        "embed_tokens": (1, vocabulary, hidden),
        "q_proj": (layers, hidden, hidden),
        "k_proj": (layers, key_value, hidden),
        "v_proj": (layers, key_value, hidden),
        "o_proj": (layers, hidden, hidden),
        "gate_proj": (layers, inner, hidden),
        "up_proj": (layers, inner, hidden),
        "down_proj": (layers, hidden, inner),
    }
    matrices = [
        {"name": name, "count": count, "rows": rows, "columns": columns}
        for name, (count, rows, columns) in shapes.items()
    ]
    weights = sum(count * rows * columns for count, rows, columns in shapes.values())
    return {
        "type": "base",
        "revision": "c0ffee",
        "architecture": "LlamaForCausalLM",
        "modelType": "llama",
        "chatTemplate": True,
        "contextLength": 8192,
        "parameters": weights + (2 * layers + 1) * hidden,
        "hiddenSize": hidden,
        "layers": layers,
        "attentionHeads": heads,
        "keyValueHeads": 3,
        "headSize": hidden // heads,
        "intermediateSize": inner,
        "vocabularySize": vocabulary,
        "tiedEmbeddings": True,
        "dtype": "float16",
        "matrices": matrices,
    }


SMOL = llama()
LENGTHS: JsonObject = {
    "unit": "tokens",
    "minimum": 5,
    "median": 50,
    "p95": 400,
    "maximum": 1500,
    "total": 10_000,
    "buckets": [
        {"upTo": 64, "rows": 80, "total": 4000},
        {"upTo": 512, "rows": 18, "total": 3200},
        {"upTo": 2048, "rows": 2, "total": 2800},
    ],
}
ROWS: Any = {"rows": {"train": 90, "evaluation": 10}, "lengths": LENGTHS}


def effective(spec: JsonObject | None = None) -> JsonObject:
    return effective_settings(spec or {}, None, None, 8192)


def told(spec: JsonObject | None = None, dataset: Any = ROWS, **options: Any) -> Any:
    given = {"templated": False} | options
    found = estimate(SMOL, dataset, effective(spec), "sft", **given)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("method", "trains"),
    [
        ({"type": "full"}, 134_515_008),
        # peft's print_trainable_parameters of the real model says the same.
        ({"lora": {"rank": 16}}, 4_884_480),
        ({"lora": {"rank": 8, "targetModules": ["q_proj", "v_proj"]}}, 460_800),
        ({"lora": {"rank": 8, "targetModules": ["family-default"]}}, 460_800),
        ({"lora": {"rank": 8, "targetModules": ["self_attn.q_proj"]}}, 276_480),
        (
            {"lora": {"targetModules": ["q_proj"], "rank": 8, "useDora": True}},
            276_480 + 30 * 576,
        ),
        (
            {"lora": {"rank": 16, "modulesToSave": ["embed_tokens"]}},
            4_884_480 + 49152 * 576,
        ),
    ],
)
def test_trainable_parameters(method: JsonObject, trains: int) -> None:
    sizes = sizes_of(SMOL)
    assert sizes
    assert trainable_parameters(sizes, effective({"method": method})["method"]) == trains


def test_weights_in_16_bits_take_14_bytes() -> None:
    sizes = sizes_of(llama(hidden=4096, inner=14336, layers=32, heads=32))
    assert sizes
    job: JsonObject = {"resources": {"gpu": 1}, "hyperparameters": {"perDeviceBatchSize": 1}}
    methods = ({"type": "full"}, {"full": {"weights": "bf16"}})
    fp32, bf16 = (memory(sizes, effective(job | {"method": method}), 512) for method in methods)
    assert fp32
    assert bf16
    weights = sizes.parameters
    assert (fp32.weights, fp32.gradients, fp32.optimizer) == (4 * weights, 4 * weights, 8 * weights)
    taken = (bf16.weights, bf16.gradients, bf16.optimizer)
    assert taken == (2 * weights, 2 * weights, 10 * weights)
    # Copies that autocast keeps of weights in fp32 are gone, too.
    assert fp32.activations - bf16.activations >= 2 * sizes.linear
    assert bf16.total < 0.9 * fp32.total


@pytest.mark.parametrize(
    ("because", "spec", "dataset", "templated", "expected"),
    [
        ("rows of 8, 3 epochs", {}, ROWS, False, {"steps": 36, "sequenceLength": 1024}),
        ("cut at maxLength 1024", {}, ROWS, False, {"tokensPerEpoch": 8323}),
        ("two workers share them", {"workers": 2}, ROWS, False, {"steps": 18, "rowsPerStep": 16}),
        ("half the rows", {"data": {"fraction": 0.5}}, ROWS, False, {"steps": 18}),
        ("given", {"hyperparameters": {"maxSteps": 7}}, ROWS, False, {"steps": 7}),
        (
            "12 batches make 3 steps an epoch",
            {"hyperparameters": {"gradientAccumulationSteps": 4, "epochs": 1.5}},
            ROWS,
            False,
            {"steps": 5},
        ),
        (
            "8323 tokens fill 9 sequences",
            {"hyperparameters": {"packing": True, "epochs": 1}},
            ROWS,
            False,
            {"steps": 2, "sequenceLength": 1024},
        ),
        (
            "no row is longer, special tokens aside",
            {},
            {**ROWS, "lengths": {**LENGTHS, "maximum": 100}},
            False,
            {"sequenceLength": 102},
        ),
        (
            "a template makes other text",
            {},
            {**ROWS, "lengths": {**LENGTHS, "maximum": 100}},
            True,
            {"sequenceLength": 1024, "tokensPerEpoch": None},
        ),
        (
            "characters are no tokens, but a bound",
            {},
            {**ROWS, "lengths": {**LENGTHS, "unit": "characters", "maximum": 300}},
            False,
            {"sequenceLength": 302, "tokensPerEpoch": None},
        ),
        ("inspected by an earlier version", {}, {"rows": ROWS["rows"]}, False, {"steps": 36}),
        (
            "8323 tokens, 3 times, 100 a second",
            {"estimate": {"tokensPerSecond": 100}, "resources": {"gpu": 1}},
            ROWS,
            False,
            {"gpuHours": 0.069},
        ),
        ("no GPU", {"estimate": {"tokensPerSecond": 100}}, ROWS, False, {"gpuHours": None}),
        ("speed not known", {"resources": {"gpu": 1}}, ROWS, False, {"gpuHours": None}),
    ],
)
def test_work(
    because: str, spec: JsonObject, dataset: Any, templated: bool, expected: JsonObject
) -> None:
    found = told(spec, dataset, templated=templated)
    assert {key: found.get(key) for key in expected} == expected, because


def test_what_is_not_known_is_left_out() -> None:
    mixture = SMOL | {"experts": 8}
    unmeasured: Any = {"type": "base"}
    for given_model in (mixture, unmeasured):
        found = estimate(given_model, ROWS, effective(), "sft", templated=False)
        assert found is not None
        assert "peakMemory" not in found
        assert found["steps"] == 36
    assert estimate(SMOL, ROWS, effective(), "another", templated=False) is None


def peak(spec: JsonObject, sequence: int = 512) -> Any:
    sizes = sizes_of(SMOL)
    assert sizes
    found = memory(sizes, effective(spec), sequence)
    assert found
    return found


def test_parts_of_a_full_training_on_a_cpu() -> None:
    found = peak({"method": {"type": "full"}})
    weights = 4 * SMOL["parameters"]
    assert (found.weights, found.gradients, found.optimizer) == (weights, weights, 2 * weights)
    assert found.host is None


def test_weights_take_the_bits_that_the_method_gives_them() -> None:
    gpu = {"resources": {"gpu": 1}}
    lora = peak(gpu)
    exact = peak(gpu | {"hyperparameters": {"precision": "fp32"}})
    packed = peak(gpu | {"method": {"type": "qlora"}})
    eight = peak(gpu | {"method": {"type": "qlora", "quantization": {"bits": 8}}})
    adapter = 4 * 4_884_480
    assert lora.weights == 2 * SMOL["parameters"] + adapter
    assert exact.weights == 4 * SMOL["parameters"] + adapter
    assert packed.weights < eight.weights < lora.weights
    linear = sum(m["count"] * m["rows"] * m["columns"] for m in SMOL["matrices"][1:])
    rest = 2 * (SMOL["parameters"] - linear)
    assert packed.weights - rest - adapter == pytest.approx(0.516 * linear, rel=0.001)


SPECS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(
            [{"type": "full"}, {"type": "lora"}, {"type": "qlora"}, {"lora": {"dropout": 0.1}}]
        ),
        "hyperparameters": st.fixed_dictionaries(
            {
                "perDeviceBatchSize": st.integers(1, 64),
                "gradientAccumulationSteps": st.integers(1, 4),
                "precision": st.sampled_from(["auto", "fp32", "bf16"]),
                "gradientCheckpointing": st.booleans(),
            }
        ),
        "resources": st.fixed_dictionaries({"gpu": st.integers(0, 1)}),
    }
)


@settings(max_examples=200, deadline=None)
@given(SPECS, st.integers(8, 4096), st.integers(1, 64))
def test_more_work_never_takes_less_memory(spec: JsonObject, sequence: int, more: int) -> None:
    now = peak(spec, sequence)
    batch = spec["hyperparameters"]["perDeviceBatchSize"]
    rank = {"method": {"lora": {"rank": 16 + more}}}
    assert peak(spec, sequence + more).total >= now.total
    larger = merge(spec, {"hyperparameters": {"perDeviceBatchSize": batch + more}})
    assert peak(larger, sequence).total >= now.total
    if spec["method"].get("type") != "full":
        assert peak(merge(spec, rank), sequence).total >= now.total
    parts = (now.weights, now.gradients, now.optimizer, now.activations, now.logits, now.runtime)
    assert all(part >= 0 for part in parts)
    assert max(parts) <= now.total <= sum(parts)


@settings(max_examples=100, deadline=None)
@given(SPECS, st.integers(8, 4096))
def test_each_piece_of_advice_saves_memory(spec: JsonObject, sequence: int) -> None:
    sizes = sizes_of(SMOL)
    assert all("saves about" in text for text in savings(sizes, effective(spec), sequence))
    checkpoints = {"hyperparameters": {"gradientCheckpointing": True}}
    assert peak(merge(spec, checkpoints), sequence).total <= peak(spec, sequence).total


@pytest.mark.parametrize(
    ("because", "spec", "limit", "says"),
    [
        (
            "the mildest change that fits",
            {"hyperparameters": {"perDeviceBatchSize": 32}},
            "40Gi",
            "hyperparameters.gradientCheckpointing: true would need",
        ),
        (
            "then smaller batches",
            {"hyperparameters": {"perDeviceBatchSize": 32, "gradientCheckpointing": True}},
            "4Gi",
            "with gradientAccumulationSteps:",
        ),
        (
            "another method, where no batch is small enough",
            {
                "method": {"type": "full"},
                "hyperparameters": {"perDeviceBatchSize": 1, "gradientCheckpointing": True},
            },
            "3Gi",
            "method.type: lora would need",
        ),
        ("nothing is enough", {}, "1Gi", "isn't enough: raise resources.memory too"),
    ],
)
def test_advice(because: str, spec: JsonObject, limit: str, says: str) -> None:
    sizes = sizes_of(SMOL)
    assert sizes
    text = advice(sizes, effective(spec), 512, limit)
    assert says in text, because


def test_job_is_compared_with_the_memory_that_it_asks_for() -> None:
    def problem(**resources: Any) -> str:
        return misfit(SMOL, ROWS, effective({"resources": resources}), "sft", templated=False)

    assert problem(memory="64Gi") == ""
    assert "resources.memory is 2Gi" in problem(memory="2Gi")
    assert problem(gpu=1, memory="16Gi") == "", "the GPU's memory isn't known"
    assert "resources.gpuMemory is 1Gi" in problem(gpu=1, gpuMemory="1Gi", memory="16Gi")
    assert "main memory" in problem(gpu=1, gpuMemory="80Gi", memory="1Gi")


def test_quantities_can_be_read_back() -> None:
    assert quantity(850 * MIB) == "850Mi"
    assert quantity(round(12.3 * 1024) * MIB) == "12.3Gi"
    assert amount(told()["peakMemory"]["total"]) > 0


# --- in the job's status


def decided(spec: JsonObject, **model_status: Any) -> Any:
    base = ready(model(), **(SMOL | model_status))
    return decide(observed_job(job(spec), model=base), NOW)


SMALL: JsonObject = {"resources": {"memory": "1Gi"}}


@pytest.mark.parametrize(
    ("spec", "fits", "inputs", "starts"),
    [
        ({"resources": {"memory": "64Gi"}}, ("True", "MemoryFits"), "True", True),
        (SMALL, ("False", "MemoryTooSmall"), "True", True),
        (
            SMALL | {"estimate": {"whenTooLarge": "Refuse"}},
            ("False", "MemoryTooSmall"),
            "False",
            False,
        ),
        (SMALL | {"estimate": {"whenTooLarge": "Ignore"}}, None, "True", True),
        ({"resources": {"gpu": 1}}, None, "True", True),
        ({"resources": {"gpu": 1, "memory": "1Gi"}}, ("False", "MemoryTooSmall"), "True", True),
    ],
)
def test_policy(spec: JsonObject, fits: tuple[str, str] | None, inputs: str, starts: bool) -> None:
    decision = decided(spec)
    status = decision.status
    assert condition_of(status, "MemoryFits") == fits
    found = condition_of(status, "InputsReady")
    assert found is not None
    assert found[0] == inputs
    assert any(type(action).__name__ == "StartRun" for action in decision.actions) is starts
    assert status["estimate"]["trainableParameters"] == 4_884_480
    assert_fits("FineTuneJob", status)
    if not starts:
        message = next(c for c in status["conditions"] if c["type"] == "InputsReady")["message"]
        assert "resources.memory" in message
        assert "estimate.whenTooLarge: Warn" in message


def test_status_settles_when_nothing_changes() -> None:
    base = ready(model(), **SMOL)
    first = observed_job(job(SMALL | {"estimate": {"whenTooLarge": "Refuse"}}), model=base)
    status = decide(first, NOW).status
    assert status is not None
    again = replace(first, job=replace(first.job, status=status))
    assert decide(again, NOW + timedelta(minutes=1)).status == status


def test_processes_share_the_main_memory_of_their_pod() -> None:
    def said(**resources: Any) -> str:
        settings = effective({"resources": resources})
        return misfit(SMOL, ROWS, settings, "sft", templated=False)

    def needed(**spec: Any) -> Memory:
        settings, sizes = effective(spec), sizes_of(SMOL)
        assert sizes
        found = memory(sizes, settings, longest_row(ROWS.get("lengths"), settings))
        assert found
        return found

    each = needed(workers=2).total
    assert not said(memory=str(2 * each), processes=2)
    text = said(memory=str(2 * each - 1), processes=2)
    assert "of memory at its peak for each of 2 processes, and resources.memory is" in text
    # Each has a GPU of its own, and all of them load the model.
    host = needed(resources={"gpu": 1}).host or 0
    assert not said(gpu=2, gpuMemory="80Gi", memory=str(2 * host))
    text = said(gpu=2, gpuMemory="80Gi", memory=str(2 * host - 1))
    assert "of main memory for each of 2 processes, and resources.memory is" in text


def test_workers_exchange_gradients_or_share_what_one_would_hold() -> None:
    full: JsonObject = {"method": {"type": "full"}}
    one, copies = peak(full), peak({**full, "workers": 4})
    assert peak({**full, "workers": 2, "resources": {"processes": 2}}) == copies
    shards = peak({**full, "workers": 4, "strategy": "fsdp2"})
    assert copies.total - one.total == one.gradients
    assert shards.optimizer == one.optimizer / 4
    assert one.weights / 4 < shards.weights < one.weights
    assert shards.total < one.total
