"""An S3 server on loopback: one bucket with the photos of a folder, and a chosen latency.

moto's server starts a Python thread for each request, and is slower than the ingest that is measured. This
server keeps objects in memory and answers thousands of requests a second on any number of connections. The
client therefore waits for the latency alone. It knows the requests of pyarrow, delta-rs, boto3 and S3A.

    python -m benchmarks.s3_server --photos DIR --latency 0.015
"""

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import time
import uuid
from argparse import ArgumentParser
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET, PREFIX = "fruits", "photos"
URI = f"s3://{BUCKET}/{PREFIX}"
STORE_URI = f"s3://{BUCKET}/store"
PAGE = 1000  # the maximum of keys in one answer to ListObjectsV2, as in S3
_LAST = "\U0010ffff"
_XML = {"Content-Type": "application/xml"}


class Object(NamedTuple):
    """An object: its content, its ETag with quotation marks, and its time in seconds since 1970."""

    content: bytes
    etag: str
    modified: float


class Bucket:
    """The objects by key, which clients read, list, write, copy and remove."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, Object] = {}
        self.keys: list[str] = []
        self.uploads: dict[str, dict[int, bytes]] = defaultdict(dict)
        self.moved: dict[str, Counter[str]] = {"read": Counter(), "written": Counter()}
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            key = f"{PREFIX}/{file.relative_to(folder).as_posix()}"
            self.objects[key] = _object(file.read_bytes(), file.stat().st_mtime)
        self.keys = sorted(self.objects)

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> bytes:
        """The whole HTTP response to a request; 404 for an unknown bucket, key or method."""
        parts = urlsplit(target)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if bucket != BUCKET:
            return _error("404 Not Found", "NoSuchBucket")
        if not key:
            return self._bucket(method, query, body)
        if method in ("GET", "HEAD"):
            return self._read(method, key, headers.get("range"))
        if method == "DELETE":
            self._remove(key)
            return _response("204 No Content")
        if method == "PUT" and "partNumber" in query:
            self.uploads[query["uploadId"]][int(query["partNumber"])] = body
            return _response("200 OK", headers={"ETag": _etag(body)})
        if method == "PUT":
            if "if-none-match" in headers and key in self.objects:
                return _error("412 Precondition Failed", "PreconditionFailed")
            return self._write(
                key,
                self._copied(headers) or body,
                "CopyObjectResult" if "x-amz-copy-source" in headers else "",
            )
        if method == "POST" and "uploads" in query:
            upload = f"<UploadId>{uuid.uuid4().hex}</UploadId>"
            return _xml(
                "InitiateMultipartUploadResult", f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>{upload}"
            )
        if method == "POST" and "uploadId" in query:
            pieces = self.uploads.pop(query["uploadId"])
            content = b"".join(pieces[number] for number in sorted(pieces))
            return self._write(key, content, "CompleteMultipartUploadResult")
        return _error("404 Not Found", "NoSuchKey")

    def _bucket(self, method: str, query: dict[str, str], body: bytes) -> bytes:
        if method == "HEAD":
            return _response("200 OK")
        if "moved" in query:  # of this server alone: the bytes since the last such request, by table
            moved, self.moved = self.moved, {"read": Counter(), "written": Counter()}
            return _response("200 OK", json.dumps(moved).encode())
        if method == "POST" and "delete" in query:
            keys = [unescape(key) for key in re.findall("<Key>(.*?)</Key>", body.decode(), re.DOTALL)]
            for key in keys:
                self._remove(key)
            return _xml(
                "DeleteResult", "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
            )
        return _response("200 OK", self.listing(query).encode(), _XML)

    def _copied(self, headers: dict[str, str]) -> bytes:
        source = unquote(headers.get("x-amz-copy-source", "")).lstrip("/").removeprefix(f"{BUCKET}/")
        return self.objects[source].content if source in self.objects else b""

    def _write(self, key: str, content: bytes, result: str) -> bytes:
        if key not in self.objects:
            insort(self.keys, key)
        self.objects[key] = _object(content, time.time())
        self.moved["written"][_table(key)] += len(content)
        etag = self.objects[key].etag
        if result:
            return _xml(
                result, f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key><ETag>{escape(etag)}</ETag>"
            )
        return _response("200 OK", headers={"ETag": etag})

    def _remove(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]

    def _read(self, method: str, key: str, span: str | None) -> bytes:
        if key not in self.objects:
            return _error("404 Not Found", "NoSuchKey", method)
        content, etag, modified = self.objects[key]
        headers = {"Last-Modified": formatdate(modified, usegmt=True), "ETag": etag, "Accept-Ranges": "bytes"}
        if method == "HEAD":
            return _response("200 OK", b"", {**headers, "Content-Length": str(len(content))})
        if span is None:
            self.moved["read"][_table(key)] += len(content)
            return _response("200 OK", content, headers)
        first, _, last = span.removeprefix("bytes=").partition("-")
        if not first:  # the last bytes
            first, last = str(max(0, len(content) - int(last))), ""
        start, end = int(first), min(int(last or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.moved["read"][_table(key)] += end + 1 - start
        return _response("206 Partial Content", content[start : end + 1], headers)

    def listing(self, query: dict[str, str]) -> str:
        """One page of ListObjectsV2 as XML. Its token is the last key or folder of the page."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        page = min(int(query.get("max-keys", PAGE)), PAGE)
        encode = quote if query.get("encoding-type") == "url" else escape
        after = query.get("continuation-token") or query.get("start-after", "")
        position = max(bisect_right(self.keys, after), bisect_left(self.keys, prefix))
        end = bisect_right(self.keys, prefix + _LAST)
        contents: list[str] = []
        last = ""
        while position < end and len(contents) < page:
            key = self.keys[position]
            position += 1
            folder, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folder = prefix + folder + delimiter
                last = folder + _LAST
                position = bisect_right(self.keys, last)
                contents.append(f"<CommonPrefixes><Prefix>{encode(folder)}</Prefix></CommonPrefixes>")
            else:
                last = key
                content, etag, modified = self.objects[key]
                moment = datetime.fromtimestamp(modified, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                contents.append(
                    f"<Contents><Key>{encode(key)}</Key><LastModified>{moment}</LastModified><ETag>{escape(etag)}"
                    f"</ETag><Size>{len(content)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                )
        more = position < end
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        coding = "<EncodingType>url</EncodingType>" if encode is quote else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
            f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>{coding}'
            f"<Prefix>{encode(prefix)}</Prefix><KeyCount>{len(contents)}</KeyCount><MaxKeys>{page}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(contents)}</ListBucketResult>"
        )


def _table(key: str) -> str:
    """The folder of a key in the store; of a photo, the name of its folder."""
    return key.removeprefix("store/").partition("/")[0]


def _object(content: bytes, modified: float) -> Object:
    return Object(content, _etag(content), modified)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _response(status: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    fields = {"Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def _xml(name: str, content: str) -> bytes:
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'
    return _response("200 OK", text.encode(), _XML)


def _error(status: str, code: str, method: str = "GET") -> bytes:
    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return _response(status, b"" if method == "HEAD" else text.encode(), _XML)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The body of a request, without the chunks of `Transfer-Encoding: chunked` and of `aws-chunked`."""
    if "chunked" in headers.get("transfer-encoding", ""):
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        while (await reader.readuntil(b"\r\n")).strip():
            pass
        body = b"".join(pieces)
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    if "aws-chunked" not in headers.get("content-encoding", ""):
        return body
    content, position = b"", 0
    while True:
        line = body.index(b"\r\n", position)
        size = int(body[position:line].partition(b";")[0], 16)
        if not size:
            return content
        content += body[line + 2 : line + 2 + size]
        position = line + 4 + size


async def serve(bucket: Bucket, latency: float, port: int = 0) -> asyncio.Server:
    """Starts a server on 127.0.0.1. It answers each request after `latency` seconds."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
                method, target, _ = head[0].split(" ")
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                if "100-continue" in headers.get("expect", "").lower():
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await _body(reader, headers)
                if latency:
                    await asyncio.sleep(latency)
                writer.write(bucket.answer(method, target, headers, body))
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
