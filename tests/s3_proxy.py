"""A proxy before an S3 server that answers some requests with an error of S3, as AWS answers them.

The codes and their statuses are those of
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
"""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Refusal(NamedTuple):
    """An answer of S3 to a request that it refuses."""

    status: int
    code: str
    message: str = "The request is refused."
    region: str = ""


EXPIRED = Refusal(400, "ExpiredToken", "The provided token has expired.")
UNKNOWN_KEY = Refusal(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
WRONG_SECRET = Refusal(403, "SignatureDoesNotMatch")
DENIED = Refusal(403, "AccessDenied", "Access Denied")
NO_BUCKET = Refusal(404, "NoSuchBucket", "The specified bucket does not exist")
ARCHIVED = Refusal(403, "InvalidObjectState", "The operation is not valid for the object's storage class")
SLOW_DOWN = Refusal(503, "SlowDown", "Please reduce your request rate.")
OTHER_REGION = Refusal(
    400,
    "AuthorizationHeaderMalformed",
    "The authorization header is malformed; the region 'eu-west-3' is wrong; expecting 'eu-west-1'",
    "eu-west-1",
)

# Headers of an answer that the proxy writes itself.
_OWN_HEADERS = ("content-length", "connection", "transfer-encoding", "date", "server")

# The method, the path of a request ("/bucket/key", or "/bucket?prefix" of a list), and its access key.
Judge = Callable[[str, str, str], Refusal | None]


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

        def answer(self) -> None:
            body = self.body()
            signature = self.headers.get("Authorization", "")
            key = signature.partition("Credential=")[2].partition("/")[0]
            refusal = judge(self.command, _judged(self.path), key)
            if refusal is not None:
                self.refuse(refusal)
                return
            assert server is not None
            connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=60)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"
            }
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            response = connection.getresponse()
            content = response.read()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _OWN_HEADERS:
                    self.send_header(name, value)
            length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(chunks)

        def refuse(self, refusal: Refusal) -> None:
            text = f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>"
            content = b"" if self.command == "HEAD" else text.encode()
            self.send_response(refusal.status)
            if refusal.region:
                self.send_header("x-amz-bucket-region", refusal.region)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # 5 by default, which many threads of pyarrow exceed

        def handle_error(self, *_: object) -> None:
            """Logs nothing where a client has ended its connection."""

    proxy = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()
