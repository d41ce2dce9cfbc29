"""Projects of a CML workspace by what people call them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from kubetune.clients.cml_errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from kubetune.clients.cml import CmlClient

_ID = re.compile(r"[0-9a-z]{4}(-[0-9a-z]{4}){3}")


async def find_project(client: CmlClient, name_or_id: str) -> dict[str, Any]:
    """The project with this id, else the one with exactly this name.

    Raises NotFoundError when there is none that the key's owner can see, InvalidError when
    several have the name.
    """
    if _ID.fullmatch(name_or_id):
        try:
            return await client.read("get_project", name_or_id)
        except (NotFoundError, InvalidError):
            # A name may look like an id.
            pass
    # How filters match is not documented: one is only tried to save pages.
    search = json.dumps({"name": name_or_id})
    found = _named(
        await client.pages("list_projects", "projects", search_filter=search), name_or_id
    ) or _named(await client.pages("list_projects", "projects"), name_or_id)
    if not found:
        raise NotFoundError(
            f"there is no project {name_or_id!r} that the API key's owner can see: check"
            " spec.cml.project, which takes a name as written or an id, and that the owner is a"
            " collaborator of the project"
        )
    if len(found) > 1:
        ids = ", ".join(sorted(str(project["id"]) for project in found))
        raise InvalidError(
            f"several projects are named {name_or_id!r}: give the id of one in spec.cml.project,"
            f" which is one of {ids}"
        )
    return found[0]


def _named(projects: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [project for project in projects if project.get("name") == name]
