"""Copies what the Helm chart shares with crds/ and manifests/install into the chart.

Helm reads nothing outside a chart's folder. ``--check`` compares and writes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "kubetune"
SHARED = (
    "cluster-role.yaml",
    "disruption-budget.yaml",
    "keys-role.yaml",
    "lease-role.yaml",
    "network-policy.yaml",
    "people-roles.yaml",
    "runs-network-policy.yaml",
    "secrets-policy.yaml",
    "targets-policy.yaml",
)


def copies() -> dict[Path, Path]:
    """Copy -> original."""
    shared = [ROOT / "manifests" / "install" / name for name in SHARED]
    originals = sorted((ROOT / "crds").glob("kubetune.io_*.yaml"))
    return {CHART / "crds" / file.name: file for file in originals} | {
        CHART / "files" / file.name: file for file in shared
    }


def main() -> int:
    """Returns the exit status."""
    wanted = copies()
    present = {*(CHART / "crds").glob("*"), *(CHART / "files").glob("*")}
    stale = [
        copy
        for copy, original in wanted.items()
        if not copy.exists() or copy.read_bytes() != original.read_bytes()
    ] + sorted(present - wanted.keys())
    if "--check" in sys.argv:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            print(f"out of date: {names}; run `make generate`", file=sys.stderr)
        return 1 if stale else 0
    for copy in stale:
        if copy in wanted:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(wanted[copy].read_bytes())
        else:
            copy.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
