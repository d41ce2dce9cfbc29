"""Which arguments ``trainer.trl.arguments`` accepts.

The names come from trl's configuration classes (``trl_arguments.py``, generated); names
that kubetune owns, or that reach outside the run, are refused with the field to use instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubetune.api.rules import Rule


@dataclass(frozen=True)
class TrainerArguments:
    """The arguments of one trl configuration class."""

    allowed: frozenset[str]
    owned: Mapping[str, str]
    """Refused name -> what to do instead."""

    def problem(self, name: str) -> str | None:
        """Why the argument is refused, or None."""
        if name in self.owned:
            return f"{name} is set by kubetune: {self.owned[name]}"
        if name not in self.allowed:
            return f"{name} is not an argument of this objective's trl configuration"
        return None

    def rules(self) -> tuple[Rule, ...]:
        """The rule for ``arguments``, as CEL and as a check."""
        names = ", ".join(f"'{name}'" for name in sorted(self.allowed))
        return (
            Rule(
                cel=f"!has(self.arguments) || self.arguments.all(name, name in [{names}])",
                message="only arguments of trl's configuration that kubetune doesn't set itself;"
                " docs/trainer-arguments.md lists them and the field to use for the others",
                check=lambda trl: all(self.problem(name) is None for name in trl.arguments or {}),
                field="arguments",
            ),
        )

    def problems(self, arguments: Mapping[str, Any]) -> list[str]:
        """All refusals, for a message that names each argument."""
        return [text for name in arguments if (text := self.problem(name))]
