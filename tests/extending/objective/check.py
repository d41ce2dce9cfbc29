"""An objective more: the API takes its settings, and a run learns by it.

The plan of a run is in the file that the argument names.
"""

import json
import sys
from pathlib import Path

import pytest
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.run.plan import RunPlan
from kubetune.decide.settings.effective import effective_settings, training_plan
from pydantic import ValidationError

from tests.runners.fitting import fitted, losses

JOB = {"modelRef": {"name": "base"}, "datasetRef": {"name": "rows"}, "focal": {"gamma": 1.0}}
FineTuneJobSpec.model_validate(JOB | {"objective": "focal"})
with pytest.raises(ValidationError, match="focal settings go with objective focal"):
    FineTuneJobSpec.model_validate(JOB | {"objective": "sft"})

settings = effective_settings(JOB | {"objective": "focal"}, None, None, None)
plan = training_plan(settings, "focal", "key", durable=False)
assert plan.focal is not None
assert plan.focal.gamma == 1

document = json.loads(Path(sys.argv[1]).read_text())


def last_loss(name: str, **training: object) -> float:
    """The loss of the last step."""
    checkpoint = TRAINING["checkpoint"] | {"directory": str(Path(sys.argv[1]).parent / name)}
    given = TRAINING | training | {"checkpoint": checkpoint}
    trainer, _ = fitted(RunPlan.model_validate(document | {"training": given}))
    return losses(trainer)[-1]


TRAINING = document["training"]
plain = last_loss("plain")
assert abs(last_loss("as sft", objective="focal", focal={"gamma": 0.0}) - plain) < 0.1
assert last_loss("focal", objective="focal", focal={"gamma": 5.0}) < plain - 0.1
