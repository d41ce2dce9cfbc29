"""A source more: the manifest has it, the plan says how it is read, and a run reads it."""

from kubetune.api.kinds.dataset.spec import DatasetSpec
from kubetune.decide.sources import dataset_source
from kubetune_runner import data
from kubetune_runner.data.sources import given

spec = DatasetSpec.model_validate({"source": {"counted": {"count": 20}}})
plan, mounts = dataset_source("numbers", spec, {"digest": "sha256:0"})
assert plan.source == "counted (20 rows)", "as status and MLflow show it"
assert given(plan)[1].to_json() == {"count": 20}

loaded = data.load(plan, None)
assert len(loaded.train) + len(loaded.evaluation) == 20
assert {"prompt": "1 + 1 =", "completion": "2"} in [*loaded.train, *loaded.evaluation]
