"""The operator connects to nothing that only its own machine or cloud answers to, unless asked."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubetune.api.conditions import Reason
from kubetune.clients.cml import CmlClient
from kubetune.clients.cml_errors import EgressRefusedError
from kubetune.clients.cml_operations import GET_PROJECT
from kubetune.clients.connections import egress
from kubetune.clients.egress import Egress, EgressError
from kubetune.settings import Settings
from kubetune.tracking.base import TrackingError
from kubetune.tracking.rest import RestClient

GUARDED = [
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "255.255.255.255",
    "ff02::1",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    # The same, carried by an address of IPv6.
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::169.254.169.254",
    "2002:7f00:1::",
]
FREE = ["10.0.0.5", "192.168.1.1", "172.16.0.1", "8.8.8.8", "2001:db8::1", "::ffff:10.0.0.5"]


@pytest.mark.parametrize("address", GUARDED)
def test_what_is_guarded_has_to_be_listed(address: str) -> None:
    with pytest.raises(EgressError, match="KUBETUNE_EGRESS_ALLOW") as caught:
        Egress.parsed("").check("mlflow.example.com", address)
    assert "mlflow.example.com" in str(caught.value)
    with pytest.raises(EgressError):
        # Whoever owns a name says where it leads.
        Egress.parsed("mlflow.example.com, *.example.com").check("mlflow.example.com", address)
    Egress.parsed(address.partition("%")[0]).check("mlflow.example.com", address)


@pytest.mark.parametrize("address", FREE)
def test_other_addresses_are_free_until_only_what_is_listed_is(address: str) -> None:
    Egress.parsed("").check("mlflow", address)
    with pytest.raises(EgressError, match="only to what KUBETUNE_EGRESS_ALLOW lists"):
        Egress.parsed("other", "Refused").check("mlflow", address)
    Egress.parsed("mlflow", "Refused").check("MLflow.", address)
    Egress.parsed(address, "Refused").check("mlflow", address)


def test_a_listed_network_and_the_names_below_one() -> None:
    rule = Egress.parsed("10.0.0.0/8, *.example.com,", "Refused")
    rule.check("x", "10.1.2.3")
    rule.check("x", "::ffff:10.1.2.3")
    rule.check("a.b.example.com", "8.8.8.8")
    for host in ("example.com", "badexample.com", "example.com.evil.org"):
        with pytest.raises(EgressError):
            rule.check(host, "8.8.8.8")


@pytest.mark.parametrize("listed", ["http://x", "10.0.0.0/33", "a b", "*", "a/b", "x:80"])
def test_an_entry_that_cannot_be_read_is_told_at_the_start(listed: str) -> None:
    settings = Settings.from_environment({"KUBETUNE_EGRESS_ALLOW": listed})
    with pytest.raises(ValueError, match=r"KUBETUNE_EGRESS_ALLOW.*give such as") as caught:
        egress(settings)
    assert listed in str(caught.value)


def test_others_are_allowed_or_refused() -> None:
    with pytest.raises(ValueError, match="KUBETUNE_EGRESS_OTHERS"):
        egress(Settings.from_environment({"KUBETUNE_EGRESS_OTHERS": "no"}))


@asynccontextmanager
async def counting() -> AsyncGenerator[tuple[int, list[str]]]:
    """Port of a server on loopback, and what it was asked for."""
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.json_response({"id": "p"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], asked
    finally:
        await runner.cleanup()


def leading(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name leads to these addresses, the next one each time it is asked for."""
    left = list(addresses)
    real = socket.getaddrinfo

    def found(host: Any, port: Any, *given: Any, **named: Any) -> Any:
        if host != "rebinding.example.com":
            return real(host, port, *given, **named)
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "rebinding.example.com"])
async def test_mlflow_is_not_called_where_nobody_may(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    leading(monkeypatch, "127.0.0.1")
    async with counting() as (port, asked):
        rest = RestClient(f"http://{host}:{port}", egress=Egress.parsed(""))
        with pytest.raises(TrackingError, match=rf"http://{host}:\d+ is not called") as caught:
            await rest.call("GET", "runs/get")
        assert caught.value.reason == Reason.EGRESS_REFUSED
        await rest.close()
        assert asked == []
        rest = RestClient(f"http://{host}:{port}", egress=Egress.parsed("127.0.0.0/8,::1"))
        await rest.call("GET", "runs/get")
        await rest.close()
    assert asked == ["/api/2.0/mlflow/runs/get"]


@pytest.mark.usefixtures("cmlapi_path")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "rebinding.example.com"])
async def test_a_workspace_is_not_called_where_nobody_may(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    leading(monkeypatch, "127.0.0.1")
    async with counting() as (port, asked):
        client = CmlClient(f"http://{host}:{port}", "key", egress=Egress.parsed(""))
        with pytest.raises(EgressRefusedError, match="KUBETUNE_EGRESS_ALLOW"):
            await client.read(GET_PROJECT, "p")
        await client.close()
        assert asked == []
        client = CmlClient(f"http://{host}:{port}", "key", egress=Egress.parsed("127.0.0.0/8,::1"))
        assert (await client.read(GET_PROJECT, "p")).id == "p"
        await client.close()
    assert asked == ["/api/v2/projects/p"]


@pytest.mark.usefixtures("cmlapi_path")
async def test_a_workspace_is_called_where_its_name_led_when_it_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leading(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with counting() as (port, asked):
        rule = Egress.parsed("127.0.0.2/32")
        client = CmlClient(f"http://rebinding.example.com:{port}", "key", egress=rule)
        with pytest.raises(Exception, match="can't be reached"):
            await client.read(GET_PROJECT, "p")
        await client.close()
    assert asked == []
