"""Projects and their files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kubetune_devcluster.cml.server.calls import Answer, Call, Download
from kubetune_devcluster.cml.server.errors import RefusalError, exists, invalid, not_found


def list_projects(call: Call) -> Answer:
    rows = [project.shown() for project in call.workspace.projects.values()]
    return call.page(rows, "projects")


def get_project(call: Call) -> Answer:
    return call.workspace.project(call.project_id).shown()


def create_project(call: Call) -> Answer:
    body, workspace = call.body, call.workspace
    if any(project.name == body["name"] for project in workspace.projects.values()):
        raise exists(f"a project with the name {body['name']} exists already")
    if body.get("template") == "git" and not body.get("git_url"):
        raise invalid("git_url is required with the template git")
    names = ("description", "visibility", "environment", "shared_memory_limit")
    fields = {name: body[name] for name in names if name in body}
    return workspace.add_project(body["name"], **fields).shown()


def delete_project(call: Call) -> Answer:
    call.workspace.delete_project(call.project_id)
    return {}


def list_project_files(call: Call) -> Answer:
    root, target = _target(call, call.path["path"])
    if not target.exists():
        raise not_found("file", call.path["path"])
    found = sorted(target.iterdir()) if target.is_dir() else [target]
    rows: list[dict[str, Any]] = [
        {
            "path": path.relative_to(root).as_posix(),
            "is_dir": path.is_dir(),
            "file_size": str(0 if path.is_dir() else path.stat().st_size),
        }
        for path in found
    ]
    return {"files": rows[::-1] if call.workspace.behaviour.default_order == "newest" else rows}


def upload_file(call: Call) -> Answer:
    if not call.parts:
        raise invalid("no file in the request: send multipart/form-data")
    for part in call.parts:
        # The generated client sends the key `file` and the local base name.
        _store(call, part.filename if part.key == "file" else part.key, part.content)
    return {}


def replace_file(call: Call) -> Answer:
    if len(call.parts) != 1:
        raise invalid(f"one file is wanted, got {len(call.parts)}")
    _store(call, call.path["path"], call.parts[0].content)
    return {}


def download_project_file(call: Call) -> Answer:
    _, target = _target(call, call.path["path"])
    if not target.is_file():
        raise not_found("file", call.path["path"])
    return Download(target.read_bytes())


def delete_project_file(call: Call) -> Answer:
    root, target = _target(call, call.path["path"])
    if target == root:
        raise invalid("the project's top folder can't be deleted")
    if target.is_dir():
        shutil.rmtree(target)
    elif target.is_file():
        target.unlink()
    else:
        raise not_found("file", call.path["path"])
    return {}


def _store(call: Call, name: str, content: bytes) -> None:
    root, target = _target(call, name)
    if target == root or target.is_dir():
        raise invalid(f'"{name}" is a folder')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise invalid(f'"{name}" is below a file') from error
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(content)
    part.replace(target)


def _target(call: Call, name: str) -> tuple[Path, Path]:
    call.workspace.project(call.project_id)
    return inside(call.workspace.files(call.project_id), name)


def inside(folder: Path, name: str) -> tuple[Path, Path]:
    """The folder and the path of ``name`` in it; refuses a name that leads out of it."""
    root = folder.resolve()
    if "\0" in name:
        raise invalid("a path holds a zero byte")
    target = (root / name.lstrip("/")).resolve()
    if target != root and root not in target.parents:
        raise RefusalError(3, f'"{name}" is outside of the project')
    return root, target
