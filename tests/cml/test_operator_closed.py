"""In CML, too: keys that nobody has opened go nowhere, and code of users needs the admin's word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.allowed import USE_LABEL

from tests.cluster.listener import Listener
from tests.cluster.namespace import condition, phase_of
from tests.cluster.support import eventually
from tests.cluster.tenant import OF_KUBETUNE_ALONE, Tenant
from tests.cml.lives import RUNNING, staying
from tests.cml.space import TARGET, CmlSpace

pytestmark = pytest.mark.cluster

PASSWORD = "hunter2-of-the-database"
SCRIPT: JsonObject = {
    "modelRef": {"name": "base"},
    "datasetRef": {"name": "rows"},
    "promptRef": {"name": "ask"},
    "trainer": {"script": {"path": "train.py"}},
}


@pytest.fixture
def user(cml: CmlSpace) -> Iterator[Tenant]:
    """Somebody who may write kubetune's kinds and nothing else."""
    tenant = Tenant(cml, "user", OF_KUBETUNE_ALONE)
    yield tenant
    tenant.close()


def test_a_workspace_of_ones_own_is_sent_no_key_that_is_closed(cml: CmlSpace, user: Tenant) -> None:
    listener = Listener()
    try:
        cml.create("Secret", "database", stringData={"password": PASSWORD})
        key = {"name": "database", "key": "password"}
        spec = cml.cml_target(url=listener.url, apiKeySecretRef=key)
        user.create("ComputeTarget", "mine", spec)
        message = cml.waits("ComputeTarget", "mine", "ConsentMissing")
        command = f"kubectl label secret database -n {cml.namespace} {USE_LABEL}=target"
        assert command in message
        assert not listener.heard
        opened = {"metadata": {"labels": {USE_LABEL: "target"}}}
        cml.patch("Secret", "database", opened)
        eventually(lambda: any(PASSWORD in heard for heard in listener.heard), 60)
    finally:
        listener.shutdown()
        listener.server_close()


def test_code_of_users_runs_in_a_project_when_the_admin_says(cml: CmlSpace, user: Tenant) -> None:
    cml.inputs()
    cml.scripts["code"] = staying(RUNNING)
    user.create("FineTuneJob", "code", SCRIPT)
    body = cml.until(
        "FineTuneJob", "code", lambda body: condition(body, "Stalled")[1] == "OwnCodeRefused"
    )
    message = condition(body, "Stalled")[2]
    assert f"spec.ownCode of ComputeTarget/{TARGET} is Refused by default in CML" in message
    assert cml.cml_jobs("code") == []
    cml.patch("ComputeTarget", TARGET, {"spec": {"ownCode": "Allowed"}})
    cml.until("FineTuneJob", "code", lambda body: phase_of(body) == "Running")
