"""Reads calls of the AWS API from WSGI requests, and answers them with errors in the form of each service."""

import io
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl
from xml.sax.saxutils import escape

# The paths that control the rehearsal. The name of a bucket can't start with an underscore.
CONTROL = "/_rehearsal/"
FAULTS, PERMISSIONS = f"{CONTROL}faults", f"{CONTROL}permissions"

_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")

# AWS answers most errors with HTTP status 400; these are the exceptions.
_STATUS = {"SlowDown": 503, "ServiceUnavailable": 503, "InternalError": 500, "InternalServerError": 500}
_FORBIDDEN = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "InvalidClientTokenId", "UnauthorizedOperation"}
)

# Services with the query protocol: the body is a form, which names the operation as `Action`.
_FORM = "application/x-www-form-urlencoded"


class Call(NamedTuple):
    """A call of AWS.

    `service` is named as in a signature: elasticmapreduce, s3, sts. A call without a signature has the
    service "unsigned" and no `access_key`. `operation` is a name such as DescribeStep, for S3 a method such
    as PUT. `parameters` are those of the body; S3's are in `query` and `headers`.
    """

    service: str
    region: str
    access_key: str
    operation: str
    path: str
    parameters: dict[str, Any]
    query: dict[str, str]
    headers: dict[str, str]


def call_of(environ: dict[str, Any]) -> Call:
    """The call in a request. Reads the body of a service whose body has the parameters, and puts it back."""
    signature = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    access_key, region, service = signature.groups() if signature else ("", "", "unsigned")
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    operation, parameters = environ["REQUEST_METHOD"], {}
    if target:
        operation, parameters = target.rpartition(".")[2], json.loads(body_of(environ) or b"{}")
    elif environ.get("CONTENT_TYPE", "").startswith(_FORM) and service != "s3":
        parameters = dict(parse_qsl(body_of(environ).decode(), keep_blank_values=True))
        operation = parameters.get("Action", operation)
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    return Call(
        service=service,
        region=region,
        access_key=access_key,
        operation=operation,
        # WSGI gives the bytes of the path as Latin-1.
        path=environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
        parameters=parameters,
        query={name: values[0] for name, values in query.items()},
        headers={
            name.removeprefix("HTTP_").replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        },
    )


def body_of(environ: dict[str, Any]) -> bytes:
    """The body of a request, which stays readable."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    replace_body(environ, body)
    return body


def replace_body(environ: dict[str, Any], body: bytes) -> None:
    """Gives a request another body."""
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))


def answer_error(
    environ: dict[str, Any], start_response: Callable[..., Any], call: Call, code: str, message: str
) -> Iterable[bytes]:
    """Answers a call with an error in the form of its service."""
    # The server would parse an unread body as the next request of the connection.
    terminated = environ.get("wsgi.input_terminated")
    environ["wsgi.input"].read(-1 if terminated else int(environ.get("CONTENT_LENGTH") or 0))
    fields = f"<Code>{code}</Code><Message>{escape(message)}</Message>"
    kind, body = "text/xml", f"<ErrorResponse><Error><Type>Sender</Type>{fields}</Error></ErrorResponse>"
    if "x-amz-target" in call.headers:
        kind, body = "application/x-amz-json-1.1", json.dumps({"__type": code, "message": message})
    elif call.service in ("s3", "unsigned"):
        kind, body = "application/xml", f"<Error>{fields}</Error>"
    elif call.service == "ec2":
        body = f"<Response><Errors><Error>{fields}</Error></Errors></Response>"
    start_response(
        f"{403 if code in _FORBIDDEN else _STATUS.get(code, 400)} {code}", [("Content-Type", kind)]
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body.encode()]


def answer_json(start_response: Callable[..., Any], value: Any) -> Iterable[bytes]:
    """Answers a request of the rehearsal's own control."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(value).encode()]
