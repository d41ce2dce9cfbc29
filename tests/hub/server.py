"""A small Hugging Face hub for tests: what huggingface_hub asks for, served from a folder.

    ROOT/models/OWNER/NAME/REVISION/files...      ROOT/datasets/OWNER/NAME/REVISION/files...
    ROOT/models/OWNER/NAME/access.json            {"private": bool, "gated": bool, "tokens": [...]}

Every folder REVISION is a branch; its commit is a hash of its files and answers as well. Answers
follow the real hub: a repository that a caller can't see is 401 without a token and 404 with
one, the files of a gated one are 401 and 403, and 429 comes with Retry-After.

Used as a fixture (``running``) or as ``python -m tests.hub.server ROOT --port 8000``; clients
find it by HF_ENDPOINT.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aiohttp import web

ACCESS_FILE = "access.json"
_API = re.compile(
    r"^/api/(?P<type>models|datasets)/(?P<repo>[^/]+(?:/[^/]+)?)"
    r"(?:/(?P<call>revision|tree|paths-info)/(?P<rest>.+))?$"
)
_RESOLVE = re.compile(
    r"^/(?P<type>datasets/)?(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<path>.+)$"
)


@dataclass(frozen=True)
class Repo:
    """A repository's folder and who may read it."""

    folder: Path
    private: bool = False
    gated: bool = False
    tokens: frozenset[str] = frozenset()

    def revisions(self) -> dict[str, Path]:
        """Branches and commits with their folders."""
        branches = {path.name: path for path in sorted(self.folder.iterdir()) if path.is_dir()}
        return branches | {commit_of(path): path for path in branches.values()}


def files_of(folder: Path) -> dict[str, Path]:
    """Files by path relative to a revision's folder."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def blob_of(path: Path) -> str:
    """A hash of a file's content."""
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def commit_of(folder: Path) -> str:
    """The commit of a revision: a hash of its files."""
    total = hashlib.sha1(usedforsecurity=False)
    for name, path in files_of(folder).items():
        total.update(f"{name} {blob_of(path)}\n".encode())
    return total.hexdigest()


class RefusedError(Exception):
    """An answer other than 200, as the hub words it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = web.json_response(
            {"error": message},
            status=status,
            headers={"X-Error-Code": code, "X-Error-Message": message},
        )


@dataclass
class Hub:
    """The hub over one folder; ``requests`` keeps what was asked, newest last."""

    root: Path
    url: str = ""
    requests: list[str] = field(default_factory=list[str])
    _throttled: int = 0
    _failing: int = 0
    _retry_after: int = 1

    def add(
        self,
        kind: str,
        repo: str,
        files: Mapping[str, bytes | str],
        *,
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
        tokens: tuple[str, ...] = (),
    ) -> str:
        """Write a revision of a repository (kind: models or datasets); returns its commit."""
        folder = self.root / kind / repo / revision
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        if private or gated or tokens:
            access = {"private": private, "gated": gated, "tokens": list(tokens)}
            (folder.parent / ACCESS_FILE).write_text(json.dumps(access))
        return commit_of(folder)

    def throttle(self, times: int, retry_after: int = 1) -> None:
        """Answer the next requests with 429."""
        self._throttled, self._retry_after = times, retry_after

    def fail(self, times: int) -> None:
        """Answer the next requests with 503."""
        self._failing = times

    def application(self) -> web.Application:
        """The server for aiohttp."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response(text="ok")
        self.requests.append(f"{request.method} {request.path}")
        if self._throttled > 0:
            self._throttled -= 1
            return web.Response(status=429, headers={"Retry-After": str(self._retry_after)})
        if self._failing > 0:
            self._failing -= 1
            return web.Response(status=503)
        try:
            if match := _API.match(request.path):
                return await self._api(request, match)
            if match := _RESOLVE.match(request.path):
                return self._resolve(request, match)
        except RefusedError as refusal:
            return refusal.response
        return web.Response(status=404)

    async def _api(self, request: web.Request, match: re.Match[str]) -> web.StreamResponse:
        repo = self._repo(request, match["type"], match["repo"])
        call, _, path = (match["rest"] or "main").partition("/")
        name, folder = self._revision(repo, call)
        if match["call"] == "tree":
            return web.json_response(_tree(folder, path, "recursive" in request.query))
        if match["call"] == "paths-info":
            wanted = set(cast("dict[str, Any]", await request.json()).get("paths", []))
            entries = _tree(folder, "", recursive=True)
            return web.json_response([entry for entry in entries if entry["path"] in wanted])
        blobs = "blobs" in request.query
        return web.json_response(_info(match["repo"], repo, name, folder, blobs))

    def _resolve(self, request: web.Request, match: re.Match[str]) -> web.StreamResponse:
        repo = self._repo(request, "datasets" if match["type"] else "models", match["repo"])
        if repo.gated and (token := _token(request)) not in repo.tokens:
            raise RefusedError(
                403 if token else 401, "GatedRepo", f"Access to {match['repo']} is restricted."
            )
        _, folder = self._revision(repo, match["rev"])
        path = files_of(folder).get(match["path"])
        commit = {"X-Repo-Commit": commit_of(folder)}
        if path is None:
            refusal = RefusedError(404, "EntryNotFound", "Entry not found")
            refusal.response.headers.update(commit)
            raise refusal
        headers = commit | {
            # The linked pair counts for the client; FileResponse makes an ETag of its own.
            "X-Linked-Etag": f'"{blob_of(path)}"',
            "X-Linked-Size": str(path.stat().st_size),
        }
        return web.FileResponse(path, headers=headers)

    def _repo(self, request: web.Request, kind: str, name: str) -> Repo:
        folder = self.root / kind / name
        token = _token(request)
        if token and token not in self._tokens():
            raise RefusedError(401, "", "Invalid credentials in Authorization header")
        found = _load(folder) if folder.is_dir() else None
        if found is None or (found.private and token not in found.tokens):
            raise RefusedError(404 if token else 401, "RepoNotFound", "Repository not found")
        return found

    def _tokens(self) -> set[str]:
        files = self.root.glob(f"*/**/{ACCESS_FILE}")
        return {"hf_anybody"} | {token for path in files for token in _load(path.parent).tokens}

    def _revision(self, repo: Repo, name: str) -> tuple[str, Path]:
        folder = repo.revisions().get(name)
        if folder is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return name, folder


def _load(folder: Path) -> Repo:
    path = folder / ACCESS_FILE
    access: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return Repo(
        folder,
        private=bool(access.get("private")),
        gated=bool(access.get("gated")),
        tokens=frozenset(access.get("tokens", [])),
    )


def _token(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def _info(name: str, repo: Repo, revision: str, folder: Path, blobs: bool) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for path, file in files_of(folder).items():
        sizes = {"size": file.stat().st_size, "blobId": blob_of(file)} if blobs else {}
        siblings.append({"rfilename": path, **sizes})
    readme = folder / "README.md"
    card = readme.read_text() if readme.is_file() else ""
    license = re.search(r"^license:\s*(\S+)", card, re.MULTILINE)
    return {
        "_id": "0",
        "id": name,
        "sha": commit_of(folder),
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
        "cardData": {"license": license[1]} if license else {},
    }


def _tree(folder: Path, below: str, recursive: bool) -> list[dict[str, Any]]:
    top = folder / below
    if not top.is_dir():
        raise RefusedError(404, "EntryNotFound", f"{below} does not exist")
    entries: list[dict[str, Any]] = []
    for path in sorted(top.rglob("*") if recursive else top.iterdir()):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            oid = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
            entries.append({"type": "directory", "path": name, "size": 0, "oid": oid})
        else:
            size = path.stat().st_size
            entries.append({"type": "file", "path": name, "size": size, "oid": blob_of(path)})
    return entries


@contextmanager
def running(root: Path, port: int = 0) -> Generator[Hub]:
    """Serve the folder on loopback from a thread; ``url`` of the hub is its address."""
    hub = Hub(root)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(hub.application(), access_log=None, shutdown_timeout=1)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", port)
    loop.run_until_complete(site.start())
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    thread = threading.Thread(target=loop.run_forever, name="hub")
    thread.start()
    try:
        yield hub
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description="A small Hugging Face hub for tests.")
    parser.add_argument("root", type=Path, help="folder with models/ and datasets/")
    parser.add_argument("--port", type=int, default=8000, help="port on loopback")
    arguments = parser.parse_args()
    hub = Hub(arguments.root)
    web.run_app(hub.application(), host="127.0.0.1", port=arguments.port, access_log=None)


if __name__ == "__main__":
    main()
