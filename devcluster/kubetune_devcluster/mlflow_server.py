"""MLflow's tracking server in one process: its store and artifacts are in one folder.

    python -m kubetune_devcluster.mlflow_server --folder DIR --port PORT

``mlflow server`` serves from a second process that imports everything again, which is half of the
cost of its start, and stays in memory twice. Here the process that has prepared the store serves,
and doesn't look for garbage in what imports have made.
"""

import argparse
import gc
import os
from pathlib import Path

from kubetune_devcluster import mlflow_database

HOST = "127.0.0.1"
ARTIFACTS = "mlflow-artifacts:"
"""Where clients find files: they ask the server for them."""
ENVIRONMENT = {
    # Its job queue would add worker processes that kubetune has no use for.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="kubetune_devcluster.mlflow_server")
    parser.add_argument("--folder", type=Path, required=True, help="for database and artifacts")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    gc.disable()
    _prepare(options.folder.absolute())

    import mlflow.server
    import uvicorn
    from mlflow.server.fastapi_app import app

    gc.collect()
    gc.freeze()
    gc.enable()
    lines = Path(mlflow.server.__file__).with_name("uvicorn_log_config.yaml")
    uvicorn.run(app, host=HOST, port=options.port, log_config=str(lines))


def _prepare(folder: Path) -> None:
    """Make the database or look whether it is up to date, and tell the application where all is.

    The variables are those by which ``mlflow server`` tells it.
    """
    os.environ.update(ENVIRONMENT)
    from mlflow.server import constants, handlers

    mlflow_database.prepare(folder, ARTIFACTS, make=True)
    store = mlflow_database.database(folder)
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = store
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = store
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = f"{ARTIFACTS}/"
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = str(folder / "artifacts")
    handlers.initialize_backend_stores(store, store, f"{ARTIFACTS}/")


if __name__ == "__main__":
    main()
