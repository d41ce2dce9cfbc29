"""`kubetune operator`: runs the operator in the foreground."""

from __future__ import annotations

import gc
import logging

import click

COLLECT_AT_START = 250_000
"""So many new objects call the collector until everything is listed."""


@click.command()
@click.option(
    "--health-port",
    type=int,
    default=8080,
    show_default=True,
    help="Port of /healthz and /metrics; 0 turns both off.",
)
@click.option(
    "--health-address",
    default="127.0.0.1",
    show_default=True,
    help="Address of /healthz and /metrics; 0.0.0.0 in a pod.",
)
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="Watch this namespace only; may be given several times. Default: the whole cluster.",
)
@click.option("--verbose", is_flag=True, help="Log every action.")
def operator(
    health_port: int, health_address: str, namespaces: tuple[str, ...], verbose: bool
) -> None:
    """Run the operator against the cluster of $KUBECONFIG, or of the pod that it runs in.

    \b
    Settings come from the environment; the important ones:
      KUBETUNE_INSTALL_ID              part of run keys; default: uid of namespace kube-system
      KUBETUNE_TRACKING_POLL_SECONDS   seconds between two reads of running jobs (5)
      KUBETUNE_EGRESS_ALLOW            networks of servers that targets may name although they are
                                       on this machine: 127.0.0.0/8,::1 for the local cluster
      KUBETUNE_LEASE_SECONDS           how long another operator waits for this one (10)
    """
    # Modules and listed objects stay, yet to the collector they are a sixth of the start's CPU.
    # It is not off: while the API server is away, failed attempts leave garbage.
    gc.set_threshold(COLLECT_AT_START)
    import uvloop

    from kubetune.clients.connections import egress
    from kubetune.clients.lease import LeaseError, LeaseTakenError
    from kubetune.clients.stored_keys import KeysError
    from kubetune.operate import operate
    from kubetune.settings import Settings

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for noisy in ("kopf.activities", "kopf.objects", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
        egress(settings)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    # A fifth less CPU for each object than on asyncio's own loop: most of it is short requests.
    try:
        uvloop.run(
            operate(
                settings,
                health_address=health_address,
                health_port=health_port,
                namespaces=namespaces,
            )
        )
    except (KeysError, LeaseError, LeaseTakenError) as error:
        raise click.ClickException(str(error)) from None
