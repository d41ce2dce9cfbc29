"""Projects of a CML workspace by what people call them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from kubetune.clients.cml_errors import InvalidError, NotFoundError
from kubetune.clients.cml_models import Project
from kubetune.clients.cml_operations import GET_PROJECT, LIST_PROJECTS

if TYPE_CHECKING:
    from kubetune.clients.cml import CmlClient

ID = re.compile(r"[0-9a-z]{4}(-[0-9a-z]{4}){3}")
"""The form of the ids of projects, jobs and runs."""


async def find_project(client: CmlClient, name_or_id: str) -> Project:
    """The project with this id, else the one with exactly this name.

    Raises NotFoundError when there is none that the key's owner can see, InvalidError when
    several have the name.
    """
    if ID.fullmatch(name_or_id):
        try:
            return await client.read(GET_PROJECT, name_or_id)
        except (NotFoundError, InvalidError):
            # A name may look like an id.
            pass
    # How filters match is not documented: one is only tried to save pages.
    search = json.dumps({"name": name_or_id})
    found = _named(await client.pages(LIST_PROJECTS, search_filter=search), name_or_id) or _named(
        await client.pages(LIST_PROJECTS), name_or_id
    )
    if not found:
        raise NotFoundError(
            f"there is no project {name_or_id!r} that the API key's owner can see: check"
            " spec.cml.project, which takes a name as written or an id, and that the owner is a"
            " collaborator of the project"
        )
    if len(found) > 1:
        ids = ", ".join(sorted(project.id for project in found))
        raise InvalidError(
            f"several projects are named {name_or_id!r}: give the id of one in spec.cml.project,"
            f" which is one of {ids}"
        )
    return found[0]


def _named(projects: list[Project], name: str) -> list[Project]:
    return [project for project in projects if project.name == name]
