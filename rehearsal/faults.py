"""Faults that a test orders: calls of AWS's API that are answered late, or with an error."""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

# Where the server takes orders; no bucket can have a name with an underscore at its start.
CONTROL = "/_rehearsal/"

# AWS answers most errors with 400; these it does not.
_STATUS = {"SlowDown": 503, "ServiceUnavailable": 503, "InternalError": 500, "InternalServerError": 500}

_SCOPE = re.compile(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request")


@dataclass(kw_only=True)
class Fault:
    """What befalls calls of a service.

    `service` is as in a signature (`elasticmapreduce`, `s3`, `sts`, `iam`). `operation` is a name as in
    `DescribeStep`, for S3 a method as in `PUT`; None is all. `path` must stand in the request's path. A call
    waits `seconds`; then it fails with the code `error`, if given. This befalls the given `share` of the
    calls, and `times` of them, else all.
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
    """A WSGI application in front of another: orders faults, carries them out, and counts calls."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._faults: list[Fault] = []
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        # The same calls fail in every run of a test that makes them in the same order.
        self._random = random.Random(0)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(CONTROL):
            return self._control(environ, start_response)
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        service = scope[1] if scope else "unsigned"
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        operation = target.rpartition(".")[2] or environ["REQUEST_METHOD"]
        error = None
        for fault in self._taken(service, operation, environ["PATH_INFO"]):
            time.sleep(fault.seconds)
            error = error or fault.error
        if error is None:
            return self._application(environ, start_response)
        # What is not read would be taken for the connection's next request.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        message = f"The rehearsal was told to answer {operation} with {error}."
        if target:
            kind, body = "application/x-amz-json-1.1", json.dumps({"__type": error, "message": message})
        elif service == "s3":
            kind, body = "application/xml", f"<Error><Code>{error}</Code><Message>{message}</Message></Error>"
        else:
            detail = f"<Error><Type>Sender</Type><Code>{error}</Code><Message>{message}</Message></Error>"
            kind, body = "text/xml", f"<ErrorResponse>{detail}</ErrorResponse>"
        start_response(f"{_STATUS.get(error, 400)} {error}", [("Content-Type", kind)])
        return [body.encode()]

    def _taken(self, service: str, operation: str, path: str) -> list[Fault]:
        with self._lock:
            self._calls[f"{service} {operation}"] += 1
            taken = [
                fault
                for fault in self._faults
                if fault.service == service
                and fault.operation in (None, operation)
                and fault.path in path
                and fault.times != 0
                and self._random.random() < fault.share
            ]
            for fault in taken:
                if fault.times is not None:
                    fault.times -= 1
            return taken

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
