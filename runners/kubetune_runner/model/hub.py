"""Repositories of a Hugging Face hub: a revision's files, and errors in the user's words.

The hub's address is HF_ENDPOINT and its cache HF_HOME, as everywhere in huggingface_hub.
What a run needs again (the commit's files) is served from the cache while the hub is away.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from kubetune_runner.data.findings import quote
from kubetune_runner.errors import RunError
from kubetune_runner.retrying import longer, repeated

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 4
LONGEST_WAIT_SECONDS = 60.0
"""A hub that asks for a longer pause is left alone: the operator retries later."""
METADATA_TIMEOUT_SECONDS = 20.0

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class HubRepo:
    """The files of a repository at one commit."""

    repo: str
    type: Literal["model", "dataset"]
    commit: str
    sizes: dict[str, int | None]
    """Bytes of every file, by path; None where only the cache was asked."""
    license: str | None
    token: str | None
    cached: Path | None = None
    """Folder of the commit in the cache, when the hub couldn't be asked."""

    def download(self, name: str, told: Callable[[int], object] = lambda _: None) -> Path:
        """The file in the cache, downloaded when it isn't there yet.

        ``told`` is called with the bytes that have come.
        """
        if self.cached:
            return self.cached / name
        from huggingface_hub import hf_hub_download

        return Path(
            _call(
                self.repo,
                self.type,
                self.commit,
                lambda: hf_hub_download(
                    self.repo,
                    name,
                    repo_type=self.type,
                    revision=self.commit,
                    token=self.token,
                    etag_timeout=METADATA_TIMEOUT_SECONDS,
                    tqdm_class=_counting(told),
                ),
            )
        )

    def tensors(self, name: str) -> dict[str, tuple[str, list[int]]]:
        """Format and shape of each tensor of a safetensors file, from its first bytes."""
        from huggingface_hub import HfApi

        metadata = _call(
            self.repo,
            self.type,
            self.commit,
            lambda: HfApi(token=self.token).parse_safetensors_file_metadata(
                self.repo,
                name,
                repo_type=self.type,
                revision=self.commit,
                timeout=METADATA_TIMEOUT_SECONDS,
            ),
        )
        return {key: (str(info.dtype), list(info.shape)) for key, info in metadata.tensors.items()}


def _counting(told: Callable[[int], object]) -> type[Any]:
    """A bar of tqdm's kind that shows nothing and tells how far it is."""
    from tqdm.std import tqdm

    class Counting(tqdm):  # pyright: ignore[reportMissingTypeArgument]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self.come = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self.come += int(n or 0)
            told(self.come)
            return None

    return Counting


def open_repo(
    repo: str, type: Literal["model", "dataset"], revision: str, token: str | None
) -> HubRepo:
    """Resolve a revision to its commit and list the files.

    Raises RunError HubAccessDenied (retryable: the token may change), HubNotFound,
    HubThrottled or HubUnreachable (both retryable).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    def ask() -> Any:
        api = HfApi(token=token)
        question = api.model_info if type == "model" else api.dataset_info
        return question(
            repo, revision=revision, files_metadata=True, timeout=METADATA_TIMEOUT_SECONDS
        )

    try:
        info = _call(repo, type, revision, ask)
    except RunError as error:
        # A commit never changes, so the cache is as good as the hub; a branch may have moved.
        trusted = HF_HUB_OFFLINE or _COMMIT.match(revision)
        cached = _from_cache(repo, type, revision, token) if trusted else None
        if cached is None or error.reason not in ("HubUnreachable", "HubThrottled"):
            raise
        logger.warning("%s Using the cache.", error)
        return cached
    card: Any = info.card_data
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
    return HubRepo(repo, type, info.sha or revision, sizes, _license(card), token)


def _license(card: Any) -> str | None:
    if card is None:
        return None
    value: Any = card.get("license")
    if value == "other":
        value = card.get("license_name") or value
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value) if value else None


def _from_cache(
    repo: str, type: Literal["model", "dataset"], revision: str, token: str | None
) -> HubRepo | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(repo, repo_type=type, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError as error:
        found = getattr(error, "snapshot_path", None)
        if not found:
            return None
    folder = Path(found)
    sizes: dict[str, int | None] = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return HubRepo(repo, type, folder.name, sizes, None, token, cached=folder)


def _call(repo: str, type: str, revision: str, ask: Callable[[], T]) -> T:
    """Ask the hub, again after a pause where that may help, and translate its errors."""

    def once() -> T:
        try:
            return ask()
        except Exception as error:
            refusal = _translate(error, repo, type, revision)
            if refusal is None:
                raise
            raise refusal from error

    return repeated(
        once,
        may_pass=_may_pass,
        pause=_pause,
        attempts=ATTEMPTS,
        tell=lambda error, seconds: logger.warning("%s Asking again in %.1f s.", error, seconds),
    )


def _root_causes(error: BaseException) -> list[BaseException]:
    """The error and what caused it: huggingface_hub hides the hub's answer below its own."""
    causes: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in causes:
        causes.append(current)
        current = current.__cause__ or current.__context__
    return causes


def _status(error: BaseException) -> int | None:
    for cause in _root_causes(error):
        code = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
    return None


def _may_pass(error: BaseException) -> bool:
    """Whether asking again makes sense now."""
    return (
        isinstance(error, RunError)
        and error.retryable
        and _status(error) not in (401, 403)
        and _asked_for(error) <= LONGEST_WAIT_SECONDS
    )


def _pause(error: BaseException, attempt: int) -> float:
    """Seconds to wait before asking again."""
    return max(longer(0.5, attempt, LONGEST_WAIT_SECONDS), _asked_for(error))


def _asked_for(error: BaseException) -> float:
    """Seconds that the hub asks to be left alone for; 0 where it doesn't say."""
    for cause in _root_causes(error):
        response: Any = getattr(cause, "response", None)
        wanted = str(response.headers.get("Retry-After", "")) if response is not None else ""
        if wanted.isdigit():
            return float(wanted)
    return 0.0


def _translate(error: Exception, repo: str, type: str, revision: str) -> RunError | None:
    """The error in the user's words; None when it isn't the hub's."""
    from huggingface_hub import errors

    name = f"{type} repository {quote(repo)}"
    causes = _root_causes(error)
    kinds = tuple(cause.__class__ for cause in causes)
    status = _status(error)

    def is_a(kind: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
        return any(issubclass(each, kind) for each in kinds)

    if is_a(errors.HFValidationError):
        return RunError("HubNotFound", f"{quote(repo)} isn't a repository name; use owner/name")
    if is_a(errors.GatedRepoError) or status == 403:
        return RunError(
            "HubAccessDenied",
            f"{name} is gated or private and the token may not read it; accept its terms on the"
            " hub, or give a token that may, in tokenSecretRef",
            retryable=True,
        )
    if status == 401:
        return RunError(
            "HubAccessDenied",
            f"{name} doesn't exist or is private; check the name, or give a token that may read"
            " it in tokenSecretRef",
            retryable=True,
        )
    if is_a(errors.RevisionNotFoundError):
        return RunError(
            "HubNotFound", f"{name} has no revision {quote(revision)}; check source.revision"
        )
    if is_a(errors.EntryNotFoundError) and status == 404:
        return RunError("HubNotFound", f"{name} lacks a file that it lists at {quote(revision)}")
    if status == 404:
        return RunError("HubNotFound", f"{name} doesn't exist; check source.repo")
    if status == 429:
        return RunError(
            "HubThrottled",
            f"the hub reports too many requests (429) for {name}; a token in tokenSecretRef"
            " raises the limit",
            retryable=True,
        )
    if status is not None and status < 500:
        return RunError("HubRefused", f"the hub answers {status} for {name}")
    if is_a(errors.OfflineModeIsEnabled):
        return RunError(
            "HubUnreachable",
            f"{name} isn't in the cache and HF_HUB_OFFLINE forbids asking the hub",
            retryable=True,
        )
    if status is not None or is_a(_network_errors()):
        detail = f"it answers {status}" if status else causes[-1].__class__.__name__
        return RunError(
            "HubUnreachable",
            f"the hub can't be reached for {name} ({detail}); check the network, HF_ENDPOINT and"
            " the proxy in the compute target's env",
            retryable=True,
        )
    return None


def _network_errors() -> tuple[type[BaseException], ...]:
    import httpx2

    return (httpx2.TransportError, ConnectionError, TimeoutError)
