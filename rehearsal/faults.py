"""Fault injection: delays calls of the AWS API, or answers them with an error."""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

# The path that controls the faults. The name of a bucket can't start with an underscore.
CONTROL = "/_rehearsal/"

# AWS answers most errors with HTTP status 400; these are the exceptions.
_STATUS = {"SlowDown": 503, "ServiceUnavailable": 503, "InternalError": 500, "InternalServerError": 500}

_SCOPE = re.compile(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request")


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
        if environ["PATH_INFO"].startswith(CONTROL):
            return self._control(environ, start_response)
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        service = scope[1] if scope else "unsigned"
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        operation = target.rpartition(".")[2] or environ["REQUEST_METHOD"]
        error = None
        for fault in self._matching(service, operation, environ["PATH_INFO"]):
            time.sleep(fault.seconds)
            error = error or fault.error
        if error is None:
            return self._application(environ, start_response)
        # The server would parse an unread body as the next request of the connection.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        message = f"The rehearsal injected the error {error} into {operation}."
        if target:
            kind, body = "application/x-amz-json-1.1", json.dumps({"__type": error, "message": message})
        elif service == "s3":
            kind, body = "application/xml", f"<Error><Code>{error}</Code><Message>{message}</Message></Error>"
        else:
            detail = f"<Error><Type>Sender</Type><Code>{error}</Code><Message>{message}</Message></Error>"
            kind, body = "text/xml", f"<ErrorResponse>{detail}</ErrorResponse>"
        start_response(f"{_STATUS.get(error, 400)} {error}", [("Content-Type", kind)])
        return [body.encode()]

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
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with self._lock:
            if environ["REQUEST_METHOD"] == "POST":
                self._faults.append(Fault(**json.loads(body)))
            elif environ["REQUEST_METHOD"] == "DELETE":
                self._faults.clear()
            answer = json.dumps(self._calls).encode()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [answer]
