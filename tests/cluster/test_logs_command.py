"""``kubetune logs`` from before a run starts until its pod, and then MLflow, are gone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.namespace import Namespace, phase_of
from tests.cluster.support import eventually
from tests.cluster.test_operator_script import INPUTS, code, job
from tests.samples import put_sample

pytestmark = [pytest.mark.cluster, pytest.mark.training]

COMMAND = (sys.executable, "-m", "kubetune.cli", "logs")
GATE = "gate"
CHATTY = f"""
import os, sys, time
print("hello from the run", flush=True)
while not os.path.exists(os.path.join(os.environ["KUBETUNE_MODEL"], "{GATE}")):
    time.sleep(0.1)
raise ValueError("the labels are wrong")
"""
ABSENT = """
apiVersion: kubetune.io/v1alpha1
kind: Dataset
metadata: {name: absent}
spec:
  source: {volume: {claimName: files, glob: absent.jsonl, format: jsonl}}
  computeTargetRef: {kind: ClusterComputeTarget, name: local}
"""


def environment(space: Namespace, **more: str) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(space.cluster.kubeconfig), **more}


def logs(space: Namespace, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "-n", space.namespace, *arguments],
        env=environment(space, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def follow(space: Namespace, subject: str, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return subprocess.Popen(
            [*COMMAND, "-n", space.namespace, subject, "-f"],
            env=environment(space),
            stdout=out,
            stderr=err,
        )


def test_logs_of_a_run_wherever_they_are(space: Namespace, tmp_path: Path) -> None:
    put_sample(space.files, 200)

    def apply(text: str) -> None:
        space.cluster.kubectl("apply", "-n", space.namespace, "-f", "-", input=text)

    apply("---\n".join([INPUTS, ABSENT, job("chatty", "chatty.py")]))
    early = logs(space, "ftj/chatty")
    assert early.returncode == 1
    assert "has no run yet: " in early.stderr

    following = follow(space, "ftj/chatty", tmp_path)
    try:
        # It waits for the run and says what for.
        eventually(lambda: b"waiting for" in (tmp_path / "err").read_bytes())
        apply(code(chatty=CHATTY))
        eventually(lambda: b"hello from the run" in (tmp_path / "out").read_bytes(), 240)
        assert following.poll() is None, "the run goes on, and so does its log"
        (space.files / "model" / GATE).touch()
        assert following.wait(60) == 0
    finally:
        following.kill()
    whole = (tmp_path / "out").read_text()
    assert "ValueError: the labels are wrong" in whole
    assert "failed: ScriptFailed" in whole

    body = space.until("FineTuneJob", "chatty", lambda found: phase_of(found) == "Failed")
    again = logs(space, "finetunejob/chatty")
    assert (again.returncode, again.stdout) == (0, whole)
    last = logs(space, "ftj/chatty", "--tail", "1", "--attempt", "1").stdout.splitlines()
    assert last == whole.splitlines()[-1:]
    nothing = logs(space, "ftj/chatty", "--previous")
    assert nothing.returncode == 1
    assert "no attempt before its newest, 1" in nothing.stderr
    assert "has no attempt 7: the newest is 1" in logs(space, "ftj/chatty", "--attempt", "7").stderr

    space.cluster.kubectl("delete", "pods", "--all", "-n", space.namespace)
    stored = logs(space, "ftj/chatty")
    assert stored.returncode == 0, stored.stderr
    assert "hello from the run" in stored.stdout
    assert "ValueError: the labels are wrong" in stored.stdout
    assert "failed: ScriptFailed" in stored.stdout
    assert logs(space, "ftj/chatty", "--tail", "2").stdout == "".join(
        stored.stdout.splitlines(keepends=True)[-2:]
    )

    away = logs(space, "ftj/chatty", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert away.returncode == 0
    assert away.stdout == body["status"]["attempts"][-1]["log"] + "\n"
    assert "logs/attempt-1.log of run" in away.stderr
    assert "127.0.0.1:9 can't be reached" in away.stderr

    space.stalls("Dataset", "absent", "NoFiles")
    inspected = logs(space, "dset/absent")
    assert inspected.returncode == 0, inspected.stderr
    assert "NoFiles" in inspected.stdout
    fine = logs(space, "dataset/tickets")
    assert fine.returncode == 1
    assert "the log of an inspection that went well isn't kept" in fine.stderr


def test_an_interrupt_ends_it_without_a_traceback(space: Namespace, tmp_path: Path) -> None:
    space.job("patient")
    following = follow(space, "ftj/patient", tmp_path)
    try:
        eventually(lambda: b"base" in (tmp_path / "err").read_bytes())
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130
    finally:
        following.kill()
    assert b"Traceback" not in (tmp_path / "err").read_bytes()


@pytest.mark.parametrize(
    ("subject", "exit_code", "words"),
    [
        ("ftj/nobody", 1, "kubectl get finetunejobs -n "),
        ("pod/nobody", 2, "finetunejob|ftj"),
        ("nobody", 2, "ftj/nobody"),
    ],
)
def test_what_isnt_there_is_said_with_the_way_on(
    space: Namespace, subject: str, exit_code: int, words: str
) -> None:
    done = logs(space, subject, KUBETUNE_HOME=str(space.cluster.home))
    assert done.returncode == exit_code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
