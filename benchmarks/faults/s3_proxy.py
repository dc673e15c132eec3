"""A proxy before an S3 server that disturbs some requests: errors of S3, cut connections, slow networks.

It decides on each request. Proxies that know no HTTP decide on a connection, of which a client has few, and
cannot lose the answer of a request that was carried out.

The codes and their statuses are those of
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Refusal(NamedTuple):
    """An answer of S3 to a request that it refuses."""

    status: int
    code: str
    message: str = "The request is refused."
    region: str = ""


class Cut(Enum):
    """The connection is reset: before the request is carried out, or after it and before the answer."""

    BEFORE = "before"
    AFTER = "after"


class Delay(NamedTuple):
    """A request waits before it is passed on."""

    seconds: float


class Pace:
    """A network that moves so many bytes a second in all connections that share this object."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._free = 0.0

    def wait(self, size: int) -> None:
        """Waits as long as the network is busy with all bytes up to these."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._bytes_per_second
            seconds = self._free - time.monotonic()
        time.sleep(max(0, seconds))


EXPIRED = Refusal(400, "ExpiredToken", "The provided token has expired.")
UNKNOWN_KEY = Refusal(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
WRONG_SECRET = Refusal(403, "SignatureDoesNotMatch")
DENIED = Refusal(403, "AccessDenied", "Access Denied")
NO_BUCKET = Refusal(404, "NoSuchBucket", "The specified bucket does not exist")
ARCHIVED = Refusal(403, "InvalidObjectState", "The operation is not valid for the object's storage class")
INTERNAL_ERROR = Refusal(500, "InternalError", "We encountered an internal error. Please try again.")
SLOW_DOWN = Refusal(503, "SlowDown", "Please reduce your request rate.")
OTHER_REGION = Refusal(
    400,
    "AuthorizationHeaderMalformed",
    "The authorization header is malformed; the region 'eu-west-3' is wrong; expecting 'eu-west-1'",
    "eu-west-1",
)

# Headers of an answer that the proxy writes itself.
_OWN_HEADERS = ("content-length", "connection", "transfer-encoding", "date", "server")

_PIECE = 16 * 1024  # bytes that a slow network moves at once

Verdict = Refusal | Cut | Delay | Pace | None
# The method, the path of a request ("/bucket/key", or "/bucket?prefix" of a list), and its access key.
Judge = Callable[[str, str, str], Verdict]


def _judged(target: str) -> str:
    """The path of a request, and the prefix of a list."""
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    path = unquote(url.path)
    return f"{path.rstrip('/')}?{query.get('prefix', [''])[0]}" if "list-type" in query else path


@contextmanager
def s3_proxy(judge: Judge, server: str | None = None) -> Iterator[str]:
    """The address of a proxy before the S3 server at an address; without one, it refuses all requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a body waits for the acknowledgement of its headers

        def answer(self) -> None:
            signature = self.headers.get("Authorization", "")
            key = signature.partition("Credential=")[2].partition("/")[0]
            verdict = judge(self.command, _judged(self.path), key)
            if isinstance(verdict, Delay):
                time.sleep(verdict.seconds)
            pace = verdict if isinstance(verdict, Pace) else None
            body = b"".join(self.body(pace))
            if isinstance(verdict, Refusal):
                self.refuse(verdict)
            elif verdict is Cut.BEFORE:
                self.cut()
            else:
                status, headers, content = self.passed_on(body)
                if verdict is Cut.AFTER:
                    self.cut()
                else:
                    self.send(status, headers, content, pace)

        def passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """The status, the headers and the content of the server's answer.

            The server gets the Host of the client, which the signature covers.
            """
            assert server is not None
            connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=60)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("transfer-encoding", "content-length")
            }
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            response = connection.getresponse()
            content = response.read()
            connection.close()
            length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            own = [pair for pair in response.getheaders() if pair[0].lower() not in _OWN_HEADERS]
            return response.status, [*own, ("Content-Length", length or "0")], content

        def send(
            self, status: int, headers: list[tuple[str, str]], content: bytes, pace: Pace | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            for start in range(0, len(content), _PIECE):
                piece = content[start : start + _PIECE]
                if pace:
                    pace.wait(len(piece))
                self.wfile.write(piece)

        def body(self, pace: Pace | None) -> Iterator[bytes]:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                yield from self.pieces(int(self.headers.get("Content-Length") or 0), pace)
                return
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                yield from self.pieces(size, pace)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass

        def pieces(self, size: int, pace: Pace | None) -> Iterator[bytes]:
            for start in range(0, size, _PIECE):
                piece = self.rfile.read(min(_PIECE, size - start))
                if pace:
                    pace.wait(len(piece))
                yield piece

        def cut(self) -> None:
            """Lets the end of this connection be a reset."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def refuse(self, refusal: Refusal) -> None:
            text = f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>"
            content = b"" if self.command == "HEAD" else text.encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))]
            if refusal.region:
                headers.append(("x-amz-bucket-region", refusal.region))
            self.send(refusal.status, headers, content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # 5 by default, which many threads of pyarrow exceed

        def shutdown_request(self, request: Any) -> None:
            """Closes a connection, as a reset if `cut` asked for it."""
            self.close_request(request)

        def handle_error(self, *_: object) -> None:
            """Logs nothing where a client has ended its connection."""

    proxy = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()
