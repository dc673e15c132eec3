"""Serves the credentials that boto3 finds to the other S3 clients of this process and of its children.

pyarrow, deltalake and Spark's S3A look for credentials by themselves, and know fewer places than boto3:
deltalake reads no profile, and none of them assumes the role of a profile. All of them ask the address in
AWS_CONTAINER_CREDENTIALS_FULL_URI, as in a container of Amazon ECS
(https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html). So a server on the
loopback address gives them boto3's credentials, which boto3 renews.
"""

import json
import math
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from resources.s3_server import agree_on_server
from resources.scratch import scratch_folder
from spark_jobs.errors import FruitsError

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from botocore.session import Session

_URI, _TOKEN = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"
# Where a client finds credentials in one of these places, it does not ask the server.
_OTHER_PLACES = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
)
_FILES = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")

# boto3's names of places from which every client takes credentials, and renews them, by itself.
_KNOWN_TO_ALL = ("env", "container-role", "iam-role")
# boto3's names of files with keys, whose end nobody knows.
_FROM_FILES = ("shared-credentials-file", "config-file")

# A client asks again when credentials without an end are this old.
_LIFETIME = timedelta(minutes=15)


def provide_credentials() -> None:
    """Gives boto3's credentials to all S3 clients, through environment variables that children inherit.

    It changes no credentials where all clients find the same by themselves. The region of a profile becomes
    AWS_REGION, and the S3 server of boto3 becomes that of all clients.

    Raises `FruitsError` where boto3 finds no credentials, or cannot renew them.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    session = botocore.session.Session()
    try:
        credentials = session.get_credentials()
        region = session.get_config_variable("region")
        agree_on_server(session)
        if credentials is not None:
            credentials.get_frozen_credentials()  # asks for them where that is still to do
    except (BotoCoreError, ClientError) as error:
        raise FruitsError(
            f"The AWS credentials cannot be used: {error}. Check AWS_PROFILE, or renew them, for instance "
            "by: aws sso login."
        ) from error
    if credentials is None:
        raise FruitsError("There are no AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID.")
    if credentials.method in _KNOWN_TO_ALL:
        return
    token = secrets.token_urlsafe(32)
    find = _finder(session) if credentials.method in _FROM_FILES else lambda: credentials
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(find, token))
    threading.Thread(target=server.serve_forever, name="AWS credentials", daemon=True).start()
    if region:
        os.environ.setdefault("AWS_REGION", region)
    for name in _OTHER_PLACES:
        os.environ.pop(name, None)
    os.environ.update(dict.fromkeys(_FILES, os.devnull))
    os.environ[_URI] = f"http://127.0.0.1:{server.server_port}/credentials"
    os.environ[_TOKEN] = token
    for name in ("NO_PROXY", "no_proxy"):  # a proxy cannot reach this server
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1"]))
    # deltalake reads the token from a file only.
    handle, name = tempfile.mkstemp(dir=scratch_folder())
    with open(handle, "w") as file:
        file.write(token)
    os.environ[f"{_TOKEN}_FILE"] = name


def _finder(session: "Session") -> Callable[[], "Credentials"]:
    """A function that reads the keys of a session's files again: another program may have renewed them."""
    import botocore.session

    profile, files = session.profile, ("config_file", "credentials_file")
    paths = {name: session.get_config_variable(name) for name in files}

    def find() -> "Credentials":
        again = botocore.session.Session(profile=profile)
        for name, path in paths.items():
            again.set_config_variable(name, path)
        return again.get_credentials() or session.get_credentials()

    return find


def _handler(find: Callable[[], "Credentials"], token: str) -> type[BaseHTTPRequestHandler]:
    """The handler of requests for credentials, which refuses requests without the token.

    Many threads ask at once when credentials end soon. Within a second they get the same answer, so that
    botocore does not renew the credentials for each of them.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    lock = threading.Lock()
    answered, answer = -math.inf, dict[str, str | None]()

    def current() -> dict[str, str | None]:
        nonlocal answered, answer
        with lock:
            if time.monotonic() > answered + 1:
                answer, answered = _answer(find()), time.monotonic()
            return answer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, shown = self.answer()
            content = json.dumps(shown).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def answer(self) -> tuple[int, dict[str, str | None]]:
            """The status and the content; of credentials that cannot be renewed, the reason."""
            if not secrets.compare_digest(self.headers.get("Authorization", ""), token):
                return 403, {}
            try:
                return 200, current()
            except (BotoCoreError, ClientError) as error:
                return 500, {"Code": type(error).__name__, "Message": str(error)}

        def log_message(self, *_: Any) -> None:
            """Logs nothing: the terminal is for the run."""

    return Handler


def _answer(credentials: "Credentials") -> dict[str, str | None]:
    """The present credentials; botocore renews them first, if they end soon."""
    frozen = credentials.get_frozen_credentials()
    end = getattr(credentials, "_expiry_time", None) or datetime.now(UTC) + _LIFETIME
    return {
        "AccessKeyId": frozen.access_key,
        "SecretAccessKey": frozen.secret_key,
        "Token": frozen.token,
        "Expiration": end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
