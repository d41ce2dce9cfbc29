"""What code of users has around it: an environment built up from nothing, and a closed runner.

Whatever a run has besides (tracking credentials, tokens of hubs, keys of judges and of a workspace)
isn't there, unless the target's admin lists it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Generator, Mapping

from kubetune.api.run.plan import ENV_CODE_VARIABLES

from kubetune_runner.mlflow.client import in_workspace

KEPT = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HF_HOME", "HF_HUB_OFFLINE", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
        *("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"),
        *("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS"),
        *("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"),
        *("no_proxy", "NO_PROXY"),
    }
)
KEPT_PREFIXES = ("LC_", "OMP_", "MKL_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
WORKSPACE_KEY = "CDSW_APIV2_KEY"
OWN_PREFIX = "KUBETUNE_"
PR_SET_DUMPABLE = 4


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What of the runner's environment code of users is given."""
    listed = {name.strip() for name in inherited.get(ENV_CODE_VARIABLES, "").split(",")}
    return {
        name: value
        for name, value in inherited.items()
        if _is_plain(name, value) or (name in listed and not name.startswith(OWN_PREFIX))
    }


def _is_plain(name: str, value: str) -> bool:
    if name.lower() in PROXIES:
        return "@" not in value
    return name in KEPT or name.startswith(KEPT_PREFIXES)


def may_report(inherited: Mapping[str, str], given: Mapping[str, str], uri: str) -> bool:
    """Whether code with these variables can log to the run: it is given what that takes."""
    needed = [name for name in CREDENTIALS if inherited.get(name)]
    if in_workspace(uri):
        needed.append(WORKSPACE_KEY)
    return all(name in given for name in needed)


@contextlib.contextmanager
def kept_out() -> Generator[None]:
    """Let no other process of this user read this one's environment and memory meanwhile.

    Where there is no Linux, nothing is kept from it.
    """
    _dumpable(0)
    try:
        yield
    finally:
        _dumpable(1)


def _dumpable(value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, value, 0, 0, 0)
