"""Settings of the operator, read once from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """Each field is read from KUBETUNE_<FIELD>, in capitals."""

    install_id: str = ""
    """Part of every run key and MLflow tag. Default: the uid of namespace kube-system. Give the
    old one to a rebuilt cluster, so that restored run keys are honoured."""

    operator_namespace: str = "kubetune-system"
    """Where Secrets of a ClusterComputeTarget are read from for its own probe."""

    lease_seconds: float = 10.0
    """Duration of the lease in the operator's namespace that one operator of several holds; another
    takes over when it wasn't renewed for so long. 0: no lease, where only one ever runs."""

    workers: int = 16
    """Objects reconciled at the same time; a namespace alone gets half of them. More help only when
    the API server is far away."""

    tracking_poll_seconds: float = 5.0
    """Seconds between two batched reads of running jobs from MLflow."""

    progress_write_seconds: float = 10.0
    """At least so many seconds between two progress writes of one job."""

    retry_seconds: float = 10.0
    """Seconds between a first failed attempt of a FineTuneJob or candidate and the next; the pause
    doubles up to 6 minutes."""

    tracking_timeout_seconds: float = 5.0
    """Timeout of one MLflow request."""

    target_probe_seconds: float = 60.0
    """Seconds between two probes of a ready compute target."""

    cml_settle_seconds: float = 90.0
    """Seconds until a job of CML whose creation got no answer, and which no list shows, counts as
    not made."""

    cml_timeout_seconds: int = 30
    """Timeout of one CML request. What a write without an answer has done is looked up."""

    cml_unknown_seconds: float = 300.0
    """Seconds that a run of CML may have a status that nobody knows before it counts as lost."""

    watch_silence_seconds: float = 70.0
    """Seconds without event or bookmark after which a watch is restarted; an API server sends a
    bookmark every minute. After three times as many without any answer /healthz fails."""

    queue_wait_seconds: float = 600.0
    """Seconds that an object may wait for a worker before /healthz fails: with ten thousand objects
    that all have news it is a minute."""

    egress_allow: str = ""
    """What the operator may connect to on behalf of specs, with commas between: addresses, networks
    such as 10.0.0.0/8, host names, and *.example.com for all below one. Loopback, link-local and
    unspecified addresses and the metadata services of clouds have to be listed as addresses or
    networks; otherwise nobody is connected to them, whatever names lead there."""

    egress_others: str = "Allowed"
    """Allowed, or Refused for what is not listed."""

    @property
    def settle_seconds(self) -> float:
        """Seconds from the start until what was made outside of the cluster can count as left."""
        return self.cml_settle_seconds

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings.

        Raises ValueError naming the variable when a value can't be read.
        """
        given: dict[str, object] = {}
        for field in fields(Settings):
            variable = f"KUBETUNE_{field.name.upper()}"
            text = environment.get(variable)
            if not text:
                continue
            try:
                given[field.name] = type(field.default)(text)
            except ValueError:
                expected = type(field.default).__name__
                raise ValueError(f"{variable}={text!r}: give a value of type {expected}") from None
        return Settings(**given)  # type: ignore[arg-type]
