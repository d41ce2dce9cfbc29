"""Metrics that a language model decides, asked through an endpoint of OpenAI's kind.

Whatever the endpoint does (refuse, hang, answer something else) becomes an error in the table. The
API key is in no message: endpoints may repeat what they were sent.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, cast

from kubetune.api.foreign import answered, error_fields
from kubetune.api.foreign import text_of as text_in
from kubetune.api.run.evaluation_plan import JudgePlan

from kubetune_runner.evaluate import judge_request, table
from kubetune_runner.evaluate.judge_reply import ReplyError, grade_of, text_of
from kubetune_runner.evaluate.judge_request import Form
from kubetune_runner.evaluate.metrics import MeasuredRow, MetricError
from kubetune_runner.evaluate.table import Column
from kubetune_runner.retrying import longer, repeated

FIRST_PAUSE_SECONDS = 1.0
"""Doubled after each try."""
MAX_PAUSE_SECONDS = 60.0
CONNECT_SECONDS = 10.0
MAX_REPLY_BYTES = 1 << 20
MAX_TEXT = 120
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""States of an endpoint that pass."""
UNFIT = frozenset({400, 415, 422, 501})
"""States of an endpoint that doesn't take the form of a request."""

log = logging.getLogger(__name__)


class _AgainError(Exception):
    """The endpoint may do better next time; after ``seconds``, where it says so."""

    def __init__(self, text: str, seconds: float | None = None) -> None:
        super().__init__(text)
        self.seconds = seconds


class _FormError(Exception):
    """The endpoint takes no request of this form, by its own words."""

    def __init__(self, form: Form, refusal: MetricError, words: str) -> None:
        super().__init__(str(refusal))
        self.form = form
        self.words = words
        self.refusal = refusal


@dataclass
class _Endpoint:
    judge: JudgePlan
    key: str | None
    over: threading.Event
    """Another row has failed: nothing more needs to be asked."""
    form: Form = field(default_factory=Form)
    """What requests have that not every endpoint takes; found out with the first rows."""
    agreed: bool = False
    """Whether a request of a form like this was answered."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def give_way(self, error: _FormError) -> None:
        """Ask in a simpler form from now on. Raises MetricError when that is no way out."""
        with self.lock:
            if self.form != error.form:
                # Found out for another row meanwhile.
                return
            simpler = error.form.simpler(error.words, agreed=self.agreed)
            if simpler is None:
                raise error.refusal
            log.info("judge %s: %s; asked without", self.judge.name, _shown(str(error), self.key))
            self.form = simpler


def measure(
    judge: JudgePlan,
    rows: Sequence[MeasuredRow],
    seed: int,
    told: Callable[[], object] = lambda: None,
) -> Column:
    """The mean of the judge's grades, or what went wrong; ``told`` is called after each row."""
    try:
        return table.of_values(rows, grades(judge, rows, told), seed)
    except MetricError as error:
        return table.failed(judge.name, str(error))


def grades(
    judge: JudgePlan, rows: Sequence[MeasuredRow], told: Callable[[], object] = lambda: None
) -> list[float]:
    """The grade of each row. Raises MetricError naming the row."""
    for row in rows:
        if row.answer is None:
            raise MetricError(f"row {row.number} lacks a generated answer, it is plain text")
    key = os.environ.get(judge.key_variable, "").strip() if judge.key_variable else None
    if judge.key_variable and not key:
        raise MetricError("the key in the Secret that apiKeySecretRef names is empty")
    if key and not (key.isascii() and key.isprintable()):
        raise MetricError(
            "the key in the Secret that apiKeySecretRef names can't be sent in a header"
        )
    endpoint = _Endpoint(judge, key, threading.Event())
    with ThreadPoolExecutor(judge.concurrency, thread_name_prefix="judge") as pool:
        asked = [pool.submit(_grade, endpoint, row) for row in rows]
        for future in asked:
            future.add_done_callback(lambda _: told())
        try:
            done, _ = wait(asked, return_when=FIRST_EXCEPTION)
            failed = next(
                (future for future in asked if future in done and future.exception()), None
            )
            if failed is not None:
                failed.result()
        finally:
            endpoint.over.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return [future.result() for future in asked]


def _grade(endpoint: _Endpoint, row: MeasuredRow) -> float:
    judge = endpoint.judge
    tries = judge.max_retries + 1

    def told(error: BaseException) -> str:
        return _shown(str(error), endpoint.key)

    try:
        return repeated(
            lambda: _grade_once(endpoint, row),
            may_pass=lambda error: isinstance(error, _AgainError),
            pause=_pause,
            attempts=tries,
            tell=lambda error, _: log.info(
                "judge %s, row %d: %s; asked again", judge.name, row.number, told(error)
            ),
            sleep=endpoint.over.wait,
        )
    except _AgainError as error:
        raise MetricError(f"row {row.number}: {told(error)} ({tries} tries)") from None
    except MetricError as error:
        raise MetricError(f"row {row.number}: {told(error)}") from None


def _grade_once(endpoint: _Endpoint, row: MeasuredRow) -> float:
    while not endpoint.over.is_set():
        try:
            return _read(_ask(endpoint, row), endpoint.judge, row)
        except _FormError as error:
            endpoint.give_way(error)
    raise MetricError("it was not asked about")


def _pause(error: BaseException, tries: int) -> float:
    """Seconds to the next try: what the endpoint asks for, else longer each time."""
    asked = error.seconds if isinstance(error, _AgainError) else None
    return min(asked or longer(FIRST_PAUSE_SECONDS, tries, MAX_PAUSE_SECONDS), MAX_PAUSE_SECONDS)


def _ask(endpoint: _Endpoint, row: MeasuredRow) -> bytes:
    """What the endpoint answers. Raises MetricError, _AgainError and _FormError."""
    import requests

    judge, form = endpoint.judge, endpoint.form
    document = judge_request.document(judge, row, form)
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    end = time.monotonic() + judge.timeout_seconds
    try:
        with requests.post(
            f"{judge.base_url}/chat/completions",
            json=document,
            headers=headers,
            auth=_no_netrc,
            timeout=(min(CONNECT_SECONDS, judge.timeout_seconds), judge.timeout_seconds),
            # A key goes where it was meant to go, and nowhere else.
            allow_redirects=False,
            stream=True,
        ) as reply:
            body = bytearray()
            for piece in reply.iter_content(8192):
                body += piece
                if len(body) > MAX_REPLY_BYTES:
                    raise MetricError(f"its reply is longer than {MAX_REPLY_BYTES:,} bytes")
                if time.monotonic() > end:
                    raise _AgainError(f"no whole reply within {judge.timeout_seconds} s")
            _check(reply, bytes(body), form)
            endpoint.agreed = True
            return bytes(body)
    except requests.Timeout:
        raise _AgainError(f"no reply within {judge.timeout_seconds} s") from None
    except requests.ConnectionError as error:
        raise _AgainError(f"can't be reached: {type(error).__name__}") from None
    except requests.exceptions.ChunkedEncodingError:
        raise _AgainError("the reply was cut off") from None
    except requests.RequestException as error:
        raise MetricError(f"can't be asked: {type(error).__name__}: {error}") from None


def _no_netrc(request: Any) -> Any:
    """requests would take credentials from a file otherwise."""
    return request


def _check(reply: Any, body: bytes, form: Form) -> None:
    if reply.status_code == 200:
        return
    said = answered(reply.status_code, reply.headers.get("Content-Type", ""), _error_in(body))
    if reply.status_code not in AGAIN:
        refusal = MetricError(f"{said}; correct baseUrl, model or the API key of the judge")
        if reply.status_code in UNFIT:
            raise _FormError(form, refusal, body.decode("utf-8", "replace")[:MAX_TEXT])
        raise refusal
    try:
        seconds = float(reply.headers.get("Retry-After", ""))
    except ValueError:
        seconds = None
    raise _AgainError(said, seconds if seconds is not None and 0 <= seconds < math.inf else None)


def _error_in(body: bytes) -> str:
    """The message of an error as OpenAI's API and those like it write it, else empty."""
    fields = error_fields(body)
    error: Any = fields.get("error")
    if isinstance(error, dict):
        error = cast("dict[str, Any]", error).get("message")
    return text_in(error) or text_in(fields.get("message"))


def _read(body: bytes, judge: JudgePlan, row: MeasuredRow) -> float:
    """The grade. Raises _AgainError when there is none."""
    given = [text for text in (row.prompt, row.reference, row.answer) if text]
    try:
        grade = grade_of(text_of(body), given)
    except ReplyError as error:
        raise _AgainError(str(error)) from None
    if not judge.minimum <= grade <= judge.maximum:
        raise _AgainError(f"its grade is {grade:g}, not {judge.minimum} to {judge.maximum}")
    return grade


def _shown(text: str, key: str | None) -> str:
    return text.replace(key, "***") if key else text
