"""Which ports the clusters of one machine choose."""

import random
from pathlib import Path

import pytest
from kubetune_devcluster import ports


def chosen(home: Path) -> set[int]:
    random.seed(1)
    return set(ports.load(home / "ports.json").values())


def test_two_clusters_of_one_seed_choose_different_ports(tmp_path: Path):
    """Trainings and tests seed the shared generator of a process."""
    first, second = chosen(tmp_path / "one"), chosen(tmp_path / "two")
    assert len(first) == len(second) == len(ports.NAMES)
    assert first != second


def test_no_port_is_one_of_an_outgoing_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    outgoing = tmp_path / "range"
    outgoing.write_text("16000\t65535\n")
    monkeypatch.setattr(ports, "_OUTGOING", outgoing)
    assert all(10_000 <= port < 16_000 for port in chosen(tmp_path / "home"))
    outgoing.unlink()
    assert all(20_000 <= port < 32_000 for port in chosen(tmp_path / "home"))
