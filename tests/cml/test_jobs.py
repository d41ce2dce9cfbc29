"""FineTuneJobs in CML, from creation to their end, by the real operator."""

import pytest
from kubetune.api.run import plan
from kubetune_devcluster.cml.server import Script

from tests.cluster.namespace import TRAINED, condition
from tests.cml.space import QUICK, TARGET, CmlSpace

pytestmark = pytest.mark.cluster


def test_a_job_becomes_one_cml_job_with_one_run(cml: CmlSpace) -> None:
    status = cml.ready("ComputeTarget", TARGET)
    assert status["workspace"]["projectId"] == cml.simulator.project.id
    assert status["workspace"]["runtime"] == cml.simulator.runtime_identifier()
    cml.inputs()
    cml.scripts["tune"] = Script(steps=QUICK, outcome=TRAINED.to_json())
    cml.job("tune")
    job = cml.phase("tune", "Succeeded")
    (made,) = cml.cml_jobs("tune")
    (run,) = cml.cml_runs("tune")
    assert made.settings["timeout"] > 0
    assert made.settings["kill_on_timeout"] is True
    assert made.settings["arguments"] == cml.run_key("tune")
    external = job["status"]["external"]
    assert external["target"] == f"ComputeTarget/{TARGET}"
    assert (external["workspace"], external["projectId"]) == (
        cml.simulator.url,
        cml.simulator.project.id,
    )
    assert (external["jobId"], external["runId"]) == (made.id, run.id)
    assert external["url"].endswith(f"/jobs/{made.id}")
    assert job["status"]["result"]["metrics"] == {"evalLoss": "0.5"}
    assert condition(job, "Complete")[0] == "True"


def test_resources_changed_while_suspended_are_those_of_the_next_run(cml: CmlSpace) -> None:
    cml.inputs()
    cml.job("grow", resources={"cpu": "1", "memory": "2Gi"}, suspend=True)
    cml.phase("grow", "Suspended")
    cml.patch("FineTuneJob", "grow", {"spec": {"suspend": False}})
    cml.phase("grow", "Running")
    cml.patch("FineTuneJob", "grow", {"spec": {"suspend": True}})
    cml.phase("grow", "Suspended")
    larger = {"cpu": "2", "memory": "4Gi", "gpu": 1}
    change = {"resources": larger, "activeDeadlineSeconds": 600, "workers": 2, "suspend": False}
    cml.patch("FineTuneJob", "grow", {"spec": change})
    cml.phase("grow", "Running")
    first, second = cml.cml_runs("grow")
    given = [
        [run.settings[key] for key in ("cpu", "memory", "nvidia_gpu")] for run in (first, second)
    ]
    assert given == [[1, 2, 0], [2, 4, 1]]
    (job,) = cml.cml_jobs("grow")
    assert 0 < job.timeout <= 600
    plans = [plan.decode_plan(run.environment[plan.ENV_PLAN_DATA]) for run in (first, second)]
    assert [one.get("workers", 1) for one in plans] == [1, 2]
