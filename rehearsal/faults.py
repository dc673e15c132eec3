"""Fault injection: delays calls of the AWS API, or answers them with an error."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rehearsal.calls import CONTROL, FAULTS, answer_error, answer_json, body_of, call_of


@dataclass(kw_only=True)
class Fault:
    """Delays or fails certain calls of a service.

    It applies to calls of `service`, named as in a signature (`elasticmapreduce`, `s3`, `sts`, `iam`), and of
    `operation`: a name such as `DescribeStep`, for S3 a method such as `PUT`; None means all operations.
    `path` is a part of the request's path.

    A call waits `seconds`, and then fails with the code `error`, if given. The fault applies to a random
    `share` (0 to 1) of the calls, and at most `times` times; None means any number of times.
    """

    service: str
    operation: str | None = None
    path: str = ""
    error: str | None = None
    seconds: float = 0.0
    share: float = 1.0
    times: int | None = None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Faults:
    """WSGI middleware that receives and applies faults, and counts calls."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._faults: list[Fault] = []
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        # A fixed seed: equal sequences of calls fail at the same calls.
        self._random = random.Random(0)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(FAULTS):
            return self._control(environ, start_response)
        if environ["PATH_INFO"].startswith(CONTROL):
            return self._application(environ, start_response)
        call = call_of(environ)
        error = None
        for fault in self._matching(call.service, call.operation, environ["PATH_INFO"]):
            time.sleep(fault.seconds)
            error = error or fault.error
        if error is None:
            return self._application(environ, start_response)
        message = f"The rehearsal injected the error {error} into {call.operation}."
        return answer_error(environ, start_response, call, error, message)

    def _matching(self, service: str, operation: str, path: str) -> list[Fault]:
        """Counts a call, and returns the faults that apply to it."""
        with self._lock:
            self._calls[f"{service} {operation}"] += 1
            matching = [
                fault
                for fault in self._faults
                if fault.service == service
                and fault.operation in (None, operation)
                and fault.path in path
                and fault.times != 0
                and self._random.random() < fault.share
            ]
            for fault in matching:
                if fault.times is not None:
                    fault.times -= 1
            return matching

    def _control(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = body_of(environ)
        with self._lock:
            if environ["REQUEST_METHOD"] == "POST":
                self._faults.append(Fault(**json.loads(body)))
            elif environ["REQUEST_METHOD"] == "DELETE":
                self._faults.clear()
            calls = dict(self._calls)
        return answer_json(start_response, calls)
