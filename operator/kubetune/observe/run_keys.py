"""Which run key a FineTuneJob has, wherever it is still to be found.

Users replace whole objects, restore backups and wipe a status, so a run key is looked for in
several places. Whatever they write, a run that lives is never forgotten for another key.
"""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.clients.pods import condition
from kubetune.decide.resources import FineTuneJobResource
from kubetune.keys import Keyring
from kubetune.names import MARK, RUN_KEY, new_run_key, run_key_in, run_key_is_ours
from kubetune.observe.cache import ObjectCache


class RunKeys:
    """The run keys of all jobs."""

    def __init__(self, cache: ObjectCache, keys: Keyring, install_id: str) -> None:
        self._cache = cache
        self._keys = keys
        self._install_id = install_id
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        """Uid and run key by namespace and name, of jobs that are not over: what was seen here."""

    def of(self, job: FineTuneJobResource) -> str | None:
        """The job's run key; None when none was made yet.

        A key counts only when it was made for an object of this namespace and name.
        """
        uid, place = job.owner.uid, (job.owner.namespace, job.owner.name)
        known_uid, known = self._known.get(place, ("", ""))
        children = sorted(
            (body for body in self._cache.jobs(uid) if self._has_made(job, body)),
            key=lambda body: body["metadata"]["creationTimestamp"],
        )
        live = [body for body in children if not _has_ended(body)]
        places = [
            *(run_key_in(body["metadata"]["name"]) for body in live),
            known if known_uid == uid else None,
            job.status.get("runKey"),
            job.annotations.get(RUN_KEY),
            *(run_key_in(body["metadata"]["name"]) for body in reversed(children)),
        ]
        found = next((key for key in places if key and self._is_ours(job, key)), None)
        if found:
            self._known[place] = uid, found
        return found

    def fresh(self, job: FineTuneJobResource, nonce: str) -> str:
        """The run key for a job that has none: the same one for the same nonce."""
        owner = job.owner
        return new_run_key(self._keys, self._install_id, owner.namespace, owner.name, nonce)

    def note(self, job: FineTuneJobResource, key: str) -> None:
        """A key that was found with the job's runs."""
        self._known[(job.owner.namespace, job.owner.name)] = job.owner.uid, key

    def forget(self, namespace: str, name: str) -> None:
        """The job is over, or gone."""
        self._known.pop((namespace, name), None)

    def _is_ours(self, job: FineTuneJobResource, key: str) -> bool:
        owner = job.owner
        return run_key_is_ours(key, self._keys, self._install_id, owner.namespace, owner.name)

    def _has_made(self, job: FineTuneJobResource, body: JsonObject) -> bool:
        """Whether a Job that names this one as its owner was made here."""
        metadata = body["metadata"]
        if metadata["namespace"] != job.owner.namespace:
            return False
        mark = (metadata.get("annotations") or {}).get(MARK, "")
        return self._keys.verifies(mark, "Job", metadata["namespace"], metadata["name"])


def _has_ended(body: JsonObject) -> bool:
    return bool(condition(body, "Complete") or condition(body, "Failed"))
