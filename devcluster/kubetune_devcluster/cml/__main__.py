"""``python -m kubetune_devcluster.cml``: a CML workspace whose jobs are real processes here."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import threading
from pathlib import Path

from kubetune_devcluster.cml import client_package
from kubetune_devcluster.cml.server import Simulator
from kubetune_devcluster.cml.server.records import new_id
from kubetune_devcluster.mlflow_database import artifacts, prepare


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m kubetune_devcluster.cml", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where it keeps its files")
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 for a free one")
    parser.add_argument(
        "--key-file",
        type=Path,
        help="file with the API key; made with a new key if it is missing (default: FOLDER/key)",
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        client_package.build()
    except client_package.ClientPackageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # A workload and the server that make the database at one time would collide.
    prepare(arguments.folder, artifacts(arguments.folder), make=True)
    key = _key(arguments.key_file or arguments.folder / "key")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    project_id = _project_id(arguments.folder / "project")
    simulator = Simulator(arguments.folder, port=arguments.port, key=key, project_id=project_id)
    simulator.mode = "process"
    try:
        simulator.start()
    except OSError as error:
        print(f"error: port {arguments.port} can't be used: {error}", file=sys.stderr)
        return 1
    try:
        print(simulator.url, flush=True)
        ended.wait()
    finally:
        simulator.close()
    return 0


def _key(path: Path) -> str:
    if path.is_file() and (key := path.read_text().strip()):
        return key
    key = secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nobody else may read it, from the first byte on.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")
    return key


def _project_id(path: Path) -> str:
    """The project's id, the same for all servers of a folder: so its files stay."""
    if path.is_file() and (project_id := path.read_text().strip()):
        return project_id
    project_id = new_id()
    path.write_text(project_id + "\n")
    return project_id


if __name__ == "__main__":
    sys.exit(main())
