"""Kubernetes quantities as numbers."""

from __future__ import annotations

import math
from decimal import Decimal

_MULTIPLIERS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}


def amount(quantity: str) -> Decimal:
    """A quantity as a number: ``500m`` is 0.5, ``4Gi`` is 4294967296."""
    number = quantity.rstrip("mkMGTPEi")
    return Decimal(number) * _MULTIPLIERS[quantity[len(number) :]]


def whole_cpus(quantity: str | None) -> int:
    """CPUs of a quantity, rounded up, at least 1: ``500m`` is 1, ``2.5`` is 3."""
    return max(1, math.ceil(amount(quantity))) if quantity else 1
