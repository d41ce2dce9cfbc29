"""Which registered models a run reads by its plan, and which of them it may."""

import pytest
from kubetune.api.kinds.compute_target.spec import Tracking
from kubetune.decide.registry import names_read, not_shared

ALONE = Tracking.model_validate({"uri": "http://mlflow:5000"})
SHARING = Tracking.model_validate(
    {
        "uri": "http://mlflow:5000",
        "registry": {
            "allowedNames": ["common"],
            "prefix": "all-",
            "trustedNamespaces": ["research"],
        },
    }
)


def test_every_address_of_a_plan_counts() -> None:
    plan = {
        "model": {"registryUri": "models:/adapter/3", "base": {"registryUri": "models:/base@prod"}},
        "candidates": [{"model": {"registryUri": "models:/my model/1"}}],
        "other": {"directory": "/model", "source": "models:/shown/1"},
    }
    assert names_read(plan) == ["adapter", "base", "my model"]


@pytest.mark.parametrize("address", ["models:/m-0123abcd", "runs:/0123/model"])
def test_results_that_nobody_registered_have_no_name(address: str) -> None:
    assert names_read({"model": {"registryUri": address}}) == []


@pytest.mark.parametrize(
    "address",
    [
        "models:/theirs@champion?x/1",
        "models:/theirs@champion;x/1",
        "models:/mine@x/1",
        "models:/mine/latest",
        "models:/the\tirs/1",
        "models://host/theirs/1",
        "models:/theirs/1/2",
    ],
)
def test_an_address_that_mlflow_reads_otherwise_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="names no version of a registered model"):
        names_read({"model": {"registryUri": address}})


@pytest.mark.parametrize(
    ("name", "owner", "tracking"),
    [
        ("own", "team", ALONE),
        ("by-hand", "", ALONE),
        ("common", "other", SHARING),
        ("all-of-us", "other", SHARING),
        ("theirs", "research", SHARING),
    ],
)
def test_what_may_be_read(name: str, owner: str, tracking: Tracking) -> None:
    assert not_shared(name, owner, "team", tracking) is None


@pytest.mark.parametrize("tracking", [ALONE, SHARING])
def test_what_may_not_be_read(tracking: Tracking) -> None:
    problem = not_shared("theirs", "other", "team", tracking)
    assert problem is not None
    assert problem.reason == "RegisteredModelNotShared"
    assert "belongs to namespace other" in problem.message
    # What somebody has written into a tag isn't shown.
    problem = not_shared("theirs", "Not a\nnamespace", "team", tracking)
    assert problem is not None
    assert "belongs to another namespace:" in problem.message
