"""A language model that grades answers, behind an endpoint of OpenAI's kind."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kubetune.api.schema.addresses import HttpAddress
from kubetune.api.schema.base import SecretKeyRef, Value
from kubetune.api.schema.rules import Rule, no_credentials

DEFAULT_RUBRIC = (
    "How good is the answer? It should do what the prompt asks, be right where the reference tells"
    " what is right, and be clear."
)


class JudgeScale(Value):
    """The grades that a judge gives."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.min < self.max",
            message="max is the best grade and must be above min",
            check=lambda scale: scale.min < scale.max,
        ),
    )

    min: int = Field(default=1, ge=-1000, le=1000, description="Worst grade. Default 1.")
    max: int = Field(default=10, ge=-1000, le=1000, description="Best grade. Default 10.")


class Judge(Value):
    """A metric that a language model decides."""

    rules: ClassVar[tuple[Rule, ...]] = (no_credentials("base_url", "use apiKeySecretRef"),)

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z][A-Za-z0-9]*$")] = (
        Field(description="Name of the metric, to be listed in spec.metrics.")
    )
    base_url: HttpAddress = Field(
        description="Address that /chat/completions is added to, such as https://host/v1. Prompts,"
        " references and answers are sent there."
    )
    model: str = Field(min_length=1, max_length=256, description="Model that the endpoint serves.")
    api_key_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret key with the API key, sent as bearer token. On CML the project variable"
        " of the key's name, which the target's judgeKeys must list. Default: none is sent.",
    )
    rubric: str | None = Field(
        default=None,
        min_length=1,
        max_length=8192,
        description="What makes an answer good. Default: does what is asked, right and clear.",
    )
    scale: JudgeScale | None = Field(default=None, description="Grades. Default 1 to 10.")
    concurrency: int = Field(
        default=4, ge=1, le=64, description="Requests that are open at once. Default 4."
    )
    timeout_seconds: int = Field(
        default=60, ge=1, le=3600, description="Most seconds for one request. Default 60."
    )
    max_retries: int = Field(
        default=4,
        ge=0,
        le=20,
        description="How often a row is asked about again when the endpoint is busy or away, or"
        " gives no grade. Default 4.",
    )
