"""The training code in a project, which whoever runs code there can change."""

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune.targets.cml.archive import runner

from tests.cml.lives import failed, succeeded
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster

REFUSED = Outcome(status="failed", reason="RunnerMissing", message="other code", retryable=True)


def test_changed_training_code_is_put_right(cml: CmlSpace) -> None:
    ours, files = runner(), cml.simulator.files()
    script, archive = files / ours.script_path, files / ours.archive_path
    cml.inputs()
    cml.scripts["first"] = succeeded()
    cml.job("first")
    cml.phase("first", "Succeeded")
    assert (script.read_bytes(), archive.read_bytes()) == (ours.script, ours.archive)
    [job] = cml.cml_jobs("first")
    assert job.environment["KUBETUNE_RUNNER_SHA256"] == ours.archive_sha256

    # Of the same size, and with all that the operator remembers.
    script.write_bytes(b"#" * len(ours.script))
    archive.write_bytes(b"#" * len(ours.archive))
    cml.scripts["second"] = [failed(REFUSED), succeeded()]
    cml.job("second", backoffLimit=1)
    cml.phase("second", "Succeeded")
    assert (script.read_bytes(), archive.read_bytes()) == (ours.script, ours.archive)
