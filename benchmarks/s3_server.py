"""A read-only S3 server on loopback: one bucket with the photos of a folder, and a chosen latency.

moto's server starts a Python thread for each request, and is slower than the ingest that is measured. This
server keeps the photos in memory and answers thousands of requests a second on any number of connections.
The client therefore waits for the latency alone.

    python -m benchmarks.s3_server --photos DIR --latency 0.015
"""

import asyncio
import subprocess
import sys
from argparse import ArgumentParser
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET, PREFIX = "fruits", "photos"
URI = f"s3://{BUCKET}/{PREFIX}"
PAGE = 1000  # the maximum of keys in one answer to ListObjectsV2, as in S3


class Bucket:
    """The objects by key. Answers HEAD, GET (also with a range) and ListObjectsV2."""

    def __init__(self, folder: Path) -> None:
        files = (file for file in folder.rglob("*") if file.is_file())
        self.objects = {
            f"{PREFIX}/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in files
        }
        self.keys = sorted(self.objects)

    def answer(self, method: str, target: str, headers: dict[str, str]) -> bytes:
        """The whole HTTP response to a request; 404 for an unknown bucket, key or method."""
        parts = urlsplit(target)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        if bucket != BUCKET or method not in ("GET", "HEAD"):
            return _response("404 Not Found")
        if key:
            return self._object(method, key, headers.get("range"))
        if method == "HEAD":
            return _response("200 OK")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return _response("200 OK", self.listing(query).encode(), {"Content-Type": "application/xml"})

    def _object(self, method: str, key: str, span: str | None) -> bytes:
        if key not in self.objects:
            return _response("404 Not Found")
        content = self.objects[key]
        headers = {"Last-Modified": formatdate(0, usegmt=True), "ETag": '"0"', "Accept-Ranges": "bytes"}
        if method == "HEAD":
            return _response("200 OK", b"", {**headers, "Content-Length": str(len(content))})
        if span is None:
            return _response("200 OK", content, headers)
        first, _, last = span.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return _response("206 Partial Content", content[start : end + 1], headers)

    def listing(self, query: dict[str, str]) -> str:
        """One page of ListObjectsV2 as XML. Its token is the last key or folder of the page."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        page = min(int(query.get("max-keys", PAGE)), PAGE)
        encode = quote if query.get("encoding-type") == "url" else escape
        position = bisect_right(self.keys, query.get("continuation-token") or query.get("start-after", ""))
        contents: list[str] = []
        last = ""
        while position < len(self.keys) and len(contents) < page:
            key = self.keys[position]
            position += 1
            if not key.startswith(prefix):
                continue
            folder, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folder = prefix + folder + delimiter
                last = folder + "\U0010ffff"
                position = bisect_right(self.keys, last)
                contents.append(f"<CommonPrefixes><Prefix>{encode(folder)}</Prefix></CommonPrefixes>")
            else:
                last = key
                size = len(self.objects[key])
                contents.append(
                    f"<Contents><Key>{encode(key)}</Key><LastModified>{_MOMENT}</LastModified><ETag>&quot;0&quot;"
                    f"</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                )
        more = position < len(self.keys) and any(key.startswith(prefix) for key in self.keys[position:])
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
            f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>'
            f"<Prefix>{encode(prefix)}</Prefix><KeyCount>{len(contents)}</KeyCount><MaxKeys>{page}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(contents)}</ListBucketResult>"
        )


_MOMENT = datetime.fromtimestamp(0, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _response(status: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    fields = {"Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


async def serve(bucket: Bucket, latency: float, port: int = 0) -> asyncio.Server:
    """Starts a server on 127.0.0.1. It answers each request after `latency` seconds."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
                method, target, _ = head[0].split(" ")
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                if latency:
                    await asyncio.sleep(latency)
                writer.write(bucket.answer(method, target, headers))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(converse, "127.0.0.1", port)


@contextmanager
def running(photos: Path, latency: float) -> Iterator[dict[str, str]]:
    """Runs the server in a new process; yields the environment variables that lead AWS clients to it."""
    command = [sys.executable, "-m", "benchmarks.s3_server", "--photos", str(photos)]
    server = subprocess.Popen([*command, "--latency", str(latency)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "eu-west-3",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        server.kill()
        server.communicate()


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    arguments = parser.parse_args()

    async def run() -> None:
        server = await serve(Bucket(arguments.photos), arguments.latency)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
