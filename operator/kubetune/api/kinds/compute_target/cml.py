"""How runs look as jobs of a Cloudera Machine Learning (Cloudera AI) workspace."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from kubetune.api.kinds.compute_target.block import CaBundle, GpuLabel, TargetBlock
from kubetune.api.schema.addresses import GitAddress, HttpAddress, is_http_address
from kubetune.api.schema.base import ConfigKey, LocalRef, ObjectName, Value, keyed_by
from kubetune.api.schema.rules import (
    Rule,
    TransitionRule,
    exactly_one,
    no_credentials,
    unchanged,
)
from kubetune.api.training.settings import Resources

MAX_TIMEOUT_SECONDS = 35_000 * 60
"""No workload of CML lives longer than 35,000 minutes."""
DEFAULT_TIMEOUT_SECONDS = 7 * 24 * 3600
DEFAULT_SCHEDULING_SECONDS = 24 * 3600

RESERVED_VARIABLES = "^(CDSW|CML|MLFLOW|HF_|HUGGING|KUBE|HADOOP|AWS_|AZURE_|GOOGLE_)"
"""How variables begin that no judge may have: the workspace's API key is one of them."""
_ADDRESS = re.compile(r"(https?)://(\[[^]]*\]|[^/:]+)(?::(\d+))?(.*)")
PORTS = {"http": 80, "https": 443}

VariableName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_]\w*$")]
RuntimeWord = Annotated[str, Field(min_length=1, max_length=128)]
Seconds = Annotated[int, Field(ge=1, le=MAX_TIMEOUT_SECONDS)]


class ApiKeyRef(LocalRef):
    """The Secret with an API key of the workspace."""

    name: ObjectName = Field(
        description="Secret: for a ComputeTarget in its namespace, for a ClusterComputeTarget in"
        " each job's."
    )
    key: ConfigKey = Field(default="apiKey", description="Key in its data. Default apiKey.")


class RuntimeSelection(Value):
    """The ML runtime of the jobs."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("identifier", "kernel"),
        Rule(
            cel="!has(self.identifier) || !(has(self.edition) || has(self.editor) ||"
            " has(self.version))",
            message="identifier says it all: leave edition, editor and version out, or give kernel"
            " instead",
            check=lambda given: (
                given.identifier is None or not (given.edition or given.editor or given.version)
            ),
        ),
    )

    identifier: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        pattern=r"^[!-~]+$",
        description="Image identifier of one runtime; or give kernel.",
    )
    kernel: RuntimeWord | None = Field(
        default=None,
        description="Kernel as the workspace names it, such as Python 3.11; the newest enabled"
        " runtime that fits is taken. Or give identifier.",
    )
    edition: RuntimeWord | None = Field(
        default=None,
        description="Edition, such as Nvidia GPU. Default: any, Standard first.",
    )
    editor: RuntimeWord | None = Field(
        default=None,
        description="Editor, such as PBJ Workbench. Default: any, PBJ Workbench first.",
    )
    version: RuntimeWord | None = Field(
        default=None,
        description="Full version, such as 2024.02.1-b4. Default: the newest.",
    )


class GitProject(Value):
    """A project that is created from a git repository."""

    url: GitAddress = Field(
        description="Repository, as the workspace reaches it. Credentials in it are refused.",
    )
    ref: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="Branch, tag or commit. Default: the repository's default branch.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        no_credentials("url", "give the workspace's project a deploy key"),
    )


class RunnerPlacement(Value):
    """How the training code gets into the project. Default: the operator uploads its own."""

    script: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^/]",
        description="Script that is in the project already, relative to its root, such as the"
        " kubetune_runner/cml_entry.py of a checkout. It must fit the operator's version.",
    )


class PollBounds(Value):
    """How often an active run is looked at."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.minSeconds <= self.maxSeconds",
            message="minSeconds must not be above maxSeconds",
            check=lambda bounds: bounds.min_seconds <= bounds.max_seconds,
        ),
    )

    min_seconds: int = Field(
        default=10,
        ge=1,
        le=3600,
        description="Seconds between two looks at a run that starts or stops. Default 10.",
    )
    max_seconds: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="Seconds between two looks at a run while nothing happens. Default 60.",
    )


class ProjectVariable(Value):
    """A plain environment variable of every run; no secrets, everybody in the project sees it."""

    name: VariableName = Field(description="Name of the variable.")
    value: str = Field(max_length=32768, description="Its value.")


class JudgeKey(Value):
    """An API key that is a variable of the project, and where judges may send it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!self.variable.matches('{RESERVED_VARIABLES}')",
            message="the platform, MLflow, the hub or a run itself has a variable like this: keep"
            " the judge's key in one of its own, such as JUDGE_API_KEY",
            check=lambda given: not re.match(RESERVED_VARIABLES, given.variable),
            field="variable",
        ),
    )

    variable: VariableName = Field(
        description="Project variable with the key; an Evaluation names it as"
        " spec.judges[].apiKeySecretRef.key."
    )
    base_urls: list[HttpAddress] = Field(
        min_length=1,
        max_length=8,
        description="The key is sent to judges at these addresses, or below their paths; to none"
        " else.",
    )

    def reaches(self, address: str) -> bool:
        """Whether a judge's address is one of these, or below it."""
        if not is_http_address(address):
            return False
        given = _parts(address)
        return any(
            given[0] == origin and f"{given[1]}/".startswith(f"{path.rstrip('/')}/")
            for origin, path in map(_parts, self.base_urls)
        )


def _parts(address: str) -> tuple[tuple[str, str, int], str]:
    """Scheme, host and port of an address in its strict form, and its path."""
    found = _ADDRESS.fullmatch(address)
    assert found
    scheme, host, port, path = found.groups()
    return (scheme, host.lower().rstrip("."), int(port or PORTS[scheme])), path


class CmlTarget(TargetBlock):
    """A project of a CML workspace. Each FineTuneJob is one job there, each attempt one run."""

    transitions: ClassVar[tuple[TransitionRule, ...]] = (
        unchanged(("url", "project"), "jobs are found by it; make another target"),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        no_credentials("url", "use apiKeySecretRef"),
        Rule(
            cel="!has(self.judgeKeys) || self.judgeKeys.all(key, key.variable !="
            " self.hubTokenVariable && !(has(self.requiredVariables) && key.variable in"
            " self.requiredVariables))",
            message="a variable of hubTokenVariable or requiredVariables is no judge's: keep the"
            " judge's key in one of its own",
            check=lambda target: (
                not (
                    {key.variable for key in target.judge_keys or ()}
                    & {target.hub_token_variable, *(target.required_variables or ())}
                )
            ),
            field="judgeKeys",
        ),
    )

    url: HttpAddress = Field(description="Address of the workspace, without /api/v2.")
    project: str = Field(
        min_length=1, max_length=255, description="Name or id of a project in the workspace."
    )
    create_project: GitProject | None = Field(
        default=None,
        description="Make the project from this repository when there is none of that name."
        " Default: the target waits for the project.",
    )
    api_key_secret_ref: ApiKeyRef = Field(description="API key (v2) of the workspace.")
    ca_bundle: CaBundle | None = Field(
        default=None, description="Certificates of the workspace's private authority."
    )
    runtime: RuntimeSelection = Field(description="ML runtime of the jobs.")
    runtime_addons: list[Annotated[str, Field(min_length=1, max_length=255)]] | None = Field(
        default=None, max_length=16, description="Identifiers of runtime add-ons."
    )
    resources: Resources | None = Field(
        default=None,
        description="Resources of a run that neither job nor profile states. gpuLabel names one"
        " accelerator label of the workspace by its key and value.",
    )
    gpu_labels: Annotated[list[GpuLabel], *keyed_by("key")] | None = Field(
        default=None,
        max_length=32,
        description="Accelerator labels that resources.gpuLabel of jobs, profiles and Evaluations"
        " may name. Default: all that the workspace has.",
    )
    runner: RunnerPlacement | None = Field(
        default=None,
        description="Training code that is in the project already. Default: the operator uploads"
        " its own below .kubetune/.",
    )
    env: Annotated[list[ProjectVariable], *keyed_by("name")] | None = Field(
        default=None,
        max_length=64,
        description="Plain environment of every run, for mirrors and proxies.",
    )
    required_variables: list[VariableName] | None = Field(
        default=None,
        max_length=64,
        description="Variables with secrets that an admin sets in the project, such as"
        " MLFLOW_TRACKING_TOKEN. A run checks that they are there, and names what is missing.",
    )
    hub_token_variable: VariableName = Field(
        default="HF_TOKEN",
        description="Project variable with the hub token for repositories whose objects name a"
        " tokenSecretRef: Secrets of the cluster never travel to CML. Default HF_TOKEN.",
    )
    judge_keys: Annotated[list[JudgeKey], *keyed_by("variable")] | None = Field(
        default=None,
        max_length=16,
        description="Project variables with API keys that judges of Evaluations may use, and where"
        " each may be sent. Default: none; judges are then asked without a key only.",
    )
    poll: PollBounds | None = Field(
        default=None, description="How often an active run is looked at. Default: 10 to 60 s."
    )
    scheduling_timeout_seconds: Seconds = Field(
        default=DEFAULT_SCHEDULING_SECONDS,
        description="Seconds that a run may wait for capacity before it is stopped and counts as"
        " failed. Default 86400, one day.",
    )
    timeout_seconds: Seconds = Field(
        default=DEFAULT_TIMEOUT_SECONDS,
        description="Seconds after which CML kills a run, whatever happens to the operator."
        " A shorter activeDeadlineSeconds of a job wins. Default 604800, seven days.",
    )

    @property
    def run_image(self) -> str | None:
        """The runtime's, where it is named."""
        return self.runtime.identifier

    @property
    def allowed_labels(self) -> list[GpuLabel] | None:
        """What the admin lists."""
        return self.gpu_labels

    @property
    def plain_variables(self) -> list[str]:
        """Those of env; what an admin sets in the project may be secret."""
        return [variable.name for variable in self.env or ()]

    @property
    def address(self) -> tuple[str, ...]:
        """Workspace and project."""
        return self.url, self.project

    @property
    def place_name(self) -> str:
        """The project."""
        return f"project {self.project} of {self.url}"

    @property
    def access_secrets(self) -> list[tuple[str, str]]:
        """The one with the API key."""
        return [(self.api_key_secret_ref.name, self.api_key_secret_ref.key)]

    @property
    def access_bundles(self) -> list[CaBundle]:
        """Those of the workspace's authority."""
        return [self.ca_bundle] if self.ca_bundle else []

    def judge_key_problem(self, variable: str, address: str) -> str:
        """Only what judgeKeys lists is sent, and only there."""
        key = next((key for key in self.judge_keys or () if key.variable == variable), None)
        if key and key.reaches(address):
            return ""
        listed = f"lists it for {', '.join(key.base_urls)}" if key else f"doesn't list {variable}"
        return f"spec.cml.judgeKeys {listed}: the target's admin says which key goes where"
