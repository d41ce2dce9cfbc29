"""What real workspaces are seen or feared to do, each a switch of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class Behaviour:
    """Switches; change them at any time, the next request sees it."""

    # Listings
    page_size_limit: int = 100
    """The largest page, whatever the client asks for."""
    default_page_size: int = 10
    """The page when the client asks for no size."""
    default_order: Literal["oldest", "newest"] = "newest"
    """The order of listings when the client asks for none."""
    name_filter: Literal["substring", "exact", "ignored"] = "substring"
    """How a text in ``search_filter`` is compared."""
    visible_after: float = 0.0
    """Seconds (of the clock) until a created job or run shows in listings; ``get`` sees it."""

    # Answers
    extra_fields: bool = False
    """Every answer has fields that the client does not know."""
    distort: Callable[[str, dict[str, Any]], Any] | None = None
    """What becomes of an operation's answer; a text is sent as it is."""
    html_errors: bool = False
    """Errors come as a proxy's HTML page."""
    short_status: bool = False
    """Run statuses are the words of API v1, such as ``succeeded``."""
    omit_environment: Literal["never", "lists", "always"] = "never"
    """Where jobs and runs come without their environment."""
    lose_tags: bool = False
    """The registry keeps no tags of versions."""
    lose_run_tags: bool = False
    """Experiment runs come without their tags."""
    no_labels: bool = False
    """An old workspace: no accelerator labels endpoint (404)."""
    no_usage: bool = False
    """The usage list stays empty."""

    # Jobs and runs
    unique_job_names: bool = False
    """A second job of one name in a project is refused."""
    second_run: Literal["refuse", "skip"] = "refuse"
    """A run while another is active: 400 code 9, or 200 with a run that is skipped."""
    skipped_history: bool = True
    """A refused second run leaves a skipped entry in the job's history."""
    skipped_status: str = "ENGINE_SKIPPED"
    """The status of such an entry."""
    honour_run_arguments: bool = False
    """The arguments of a run request count; the job's own otherwise."""
    stop_ended_run: Literal["refuse", "accept"] = "refuse"
    """Stopping a run that has ended: 400 code 9, or 200."""
    delete_active_job: Literal["stop", "refuse"] = "stop"
    """Deleting a job whose run is active: ends the run, or 400 code 9."""
    timeout_without_kill: Literal["ignore", "mark"] = "ignore"
    """A timeout without ``kill_on_timeout``: nothing, or the run goes on as timed out."""
    stop_seconds: float = 0.0
    """How long a scripted run is stopping."""
    process_grace_seconds: float = 10.0
    """How long a process may take to end before it is killed."""
    environment_limit: int = 1024 * 1024
    """The largest environment of a job or run in bytes."""

    # Serving
    build_seconds: float = 2.0
    """How long a model build takes."""
    deploy_seconds: float = 2.0
    """How long a deployment takes."""
    build_fails: bool = False
    """Model builds end as ``build failed``."""
    deployment_fails: bool = False
    """Deployments end as ``failed``."""
