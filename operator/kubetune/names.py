"""Names, labels and annotations that the operator gives to objects outside its own kinds."""

from __future__ import annotations

import hashlib
import secrets

from kubetune.api import GROUP
from kubetune.keys import Keyring

FINALIZER = f"{GROUP}/finalizer"
IN_USE = f"{GROUP}/in-use"
"""Finalizer of what runs outside of the cluster can't be reached without."""
IN_USE_FROM = f"{GROUP}/in-use-from"
"""Annotation of a ClusterComputeTarget: where Secrets are held for it, with commas between."""
ABANDON_RUNS = f"{GROUP}/abandon-runs"
"""Annotation ``"true"``: a deleted object goes though its runs can't be stopped, and a deleted
target though they need it."""
RUN_KEY = f"{GROUP}/run-key"
"""Annotation of a FineTuneJob, a copy of status.runKey; label of everything made for it."""
OWNER_KIND = f"{GROUP}/owner-kind"
OWNER_NAME = f"{GROUP}/owner-name"
"""Annotation with the owner's name, and label with its short form."""
MARK = f"{GROUP}/mark"
"""Annotation of what was made for a run: a code that only the operator can make."""
ATTEMPT = f"{GROUP}/attempt"
PURPOSE = f"{GROUP}/purpose"
LIMIT = f"{GROUP}/active-deadline-seconds"
"""Annotation of a Job: the activeDeadlineSeconds that we have set. Others may set one too."""
PROCESSES = f"{GROUP}/processes"
"""Annotation of a Job whose pods have several processes: how many each has."""
JOB = f"{GROUP}/job"
MANAGED_BY = {"app.kubernetes.io/managed-by": "kubetune"}

_NONCE_LENGTH = 6
_CODE_LENGTH = 10
RUN_KEY_LENGTH = _NONCE_LENGTH + _CODE_LENGTH
_HASH_LENGTH = 10
MAX_JOB_NAME = MAX_LABEL_VALUE = 63
"""Pods carry the Job's name as a label value."""


def new_nonce() -> str:
    """What makes a run key another than all that the same object had before."""
    return secrets.token_hex(_NONCE_LENGTH // 2)


def new_run_key(keys: Keyring, install_id: str, namespace: str, name: str, nonce: str = "") -> str:
    """A fresh key: a nonce and a code that ties it to one object of one installation.

    Nobody else can compute it, so nothing can have been made for it before.
    """
    nonce = nonce or new_nonce()
    return nonce + keys.code("run", install_id, namespace, name, nonce)[:_CODE_LENGTH]


def run_key_is_ours(key: str, keys: Keyring, install_id: str, namespace: str, name: str) -> bool:
    """Whether the key was made for this object; a copied annotation is not honoured."""
    nonce, code = key[:_NONCE_LENGTH], key[_NONCE_LENGTH:]
    parts = ("run", install_id, namespace, name, nonce)
    return keys.verifies(code, *parts, length=_CODE_LENGTH)


def derived_run_key(keys: Keyring, uid: str, *parts: str) -> str:
    """The run key of what an object has several of, such as inspections: always the same one."""
    return keys.lasting_code("part", uid, *parts)[:RUN_KEY_LENGTH]


def digest(*parts: str) -> str:
    """A hex sha256 over the parts, with their borders kept."""
    hasher = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        hasher.update(len(encoded).to_bytes(8, "big"))
        hasher.update(encoded)
    return hasher.hexdigest()


def child_name(owner: str, *suffix: str) -> str:
    """A name of at most 63 characters: the owner's, shortened when needed, and a suffix."""
    tail = "-" + "-".join(suffix)
    room = MAX_JOB_NAME - len(tail)
    base = owner.replace(".", "-")
    if len(base) > room:
        base = base[:room].rstrip("-")
    return base + tail


def label_value(name: str) -> str:
    """An object's name as a label value: long ones are cut, and end in a hash of the whole name."""
    if len(name) <= MAX_LABEL_VALUE:
        return name
    tail = f"-{digest(name)[:_HASH_LENGTH]}"
    return name[: MAX_LABEL_VALUE - len(tail)].rstrip("-.") + tail


def run_key_in(job_name: str) -> str:
    """The run key in the name of an attempt's Job; empty when it isn't such a name."""
    parts = job_name.rsplit("-", 2)
    return parts[1] if len(parts) == 3 else ""


def service_name(run_key: str) -> str:
    """The headless Service by which the workers of a FineTuneJob find each other.

    It begins with a letter, as the name of a Service must.
    """
    return f"kubetune-{run_key}"


def rendezvous_port(run_key: str, attempt: int) -> int:
    """Where worker 0 of an attempt waits.

    Attempts that share an address, as on a process node, mostly have different ones; they lie
    below the ports that a system gives away by itself.
    """
    return 20000 + int(digest(run_key, str(attempt))[:8], 16) % 10000
