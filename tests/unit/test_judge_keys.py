"""Where a variable with a judge's key may be sent: by the whole address, not by its text."""

from __future__ import annotations

import pytest
from kubetune.api.kinds.compute_target.cml import JudgeKey

KEY = JudgeKey.model_validate(
    {
        "variable": "JUDGE",
        "baseUrls": ["https://api.example.com/v1", "http://judge.models.svc:8000/"],
    }
)


@pytest.mark.parametrize(
    "address",
    [
        "https://api.example.com/v1",
        "https://api.example.com/v1/",
        "https://API.example.com:443/v1/teams/a",
        "http://judge.models.svc:8000/v1",
    ],
)
def test_addresses_that_are_reached(address: str) -> None:
    assert KEY.reaches(address)


@pytest.mark.parametrize(
    "address",
    [
        "https://api.example.com",
        "https://api.example.com/v10",
        "https://api.example.com/v1/../admin",
        "https://api.example.com/v1/%2E%2e/admin",
        "https://api.example.com/v1/..%2fadmin",
        "https://api.example.com/v1\\..\\admin",
        "http://api.example.com/v1",
        "https://api.example.com:8443/v1",
        "https://api.example.com.evil.example/v1",
        "https://api.example.com@evil.example/v1",
        "https://api.example.com\\@evil.example/v1",
        "https://evil.example/https://api.example.com/v1",
        "https://evil.example#https://api.example.com/v1",
        "https://evil.example?https://api.example.com/v1",
        "https://api.example.com:port/v1",
        "https:///v1",
    ],
)
def test_addresses_that_are_not(address: str) -> None:
    assert not KEY.reaches(address)
