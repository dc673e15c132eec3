"""The proxy disturbs the requests that it is told to, and the S3 server behind it is a real one."""

import http.client
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.faults.s3_faults import DISTURBANCES, STORE
from benchmarks.faults.s3_proxy import SLOW_DOWN, Cut, Delay, Pace, Verdict, s3_proxy
from benchmarks.faults.versitygw import BUCKET, Bucket, built, running
from spark_jobs.errors import FruitsError
from spark_jobs.store.schemas import MOBILENET_FEATURES, RAW_IMAGES


@contextmanager
def server(got: list[tuple[str, bytes]]) -> Iterator[str]:
    """A server that keeps the method and the body of each request, and answers with 100,000 bytes."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            # Two lengths, even if they are equal, would let a strict server refuse the request.
            [length] = self.headers.get_all("Content-Length", ["0"])
            got.append((self.command, self.rfile.read(int(length))))
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(bytes(100000))

        do_GET = do_PUT = answer

        def log_message(self, *_: object) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def send(address: str, method: str = "PUT", body: bytes = b"content") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    try:
        connection.request(method, "/fruits/file", body, {"content-length": str(len(body))})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def through(verdict: Verdict, *, method: str = "PUT", body: bytes = b"content") -> tuple[int, int, float]:
    """The status and the size of an answer through a proxy, and its seconds."""
    with server([]) as behind, s3_proxy(lambda *_: verdict, behind) as address:
        begun = time.monotonic()
        status, answer = send(address, method, body)
        return status, len(answer), time.monotonic() - begun


def test_a_request_passes_as_it_is() -> None:
    got: list[tuple[str, bytes]] = []
    with server(got) as behind, s3_proxy(lambda *_: None, behind) as address:
        assert send(address) == (200, bytes(100000))
    assert got == [("PUT", b"content")]


@pytest.mark.parametrize(("cut", "carried_out"), [(Cut.BEFORE, False), (Cut.AFTER, True)])
def test_a_connection_is_reset_before_or_after_the_deed(cut: Cut, carried_out: bool) -> None:
    got: list[tuple[str, bytes]] = []
    with server(got) as behind, s3_proxy(lambda *_: cut, behind) as address:
        with pytest.raises(ConnectionResetError):
            send(address)
        assert got == ([("PUT", b"content")] if carried_out else [])


def test_a_refused_request_does_not_reach_the_server() -> None:
    got: list[tuple[str, bytes]] = []
    with server(got) as behind, s3_proxy(lambda *_: SLOW_DOWN, behind) as address:
        status, answer = send(address)
    assert (status, got) == (503, [])
    assert b"<Code>SlowDown</Code>" in answer


def test_a_delayed_request_is_carried_out_later() -> None:
    status, _, seconds = through(Delay(0.3))
    assert status == 200
    assert seconds >= 0.3


def test_a_pace_limits_what_goes_to_the_server_and_what_comes_back() -> None:
    status, size, seconds = through(Pace(1_000_000), body=bytes(200_000))
    assert (status, size) == (200, 100_000)
    assert seconds >= 0.3


def test_connections_share_a_pace() -> None:
    pace = Pace(1_000_000)
    with server([]) as behind, s3_proxy(lambda *_: pace, behind) as address:
        begun = time.monotonic()
        threads = [threading.Thread(target=send, args=(address, "GET", b"")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - begun >= 0.4


def test_a_fault_of_a_stage_begins_with_its_first_write() -> None:
    [lasting] = [
        disturbance
        for disturbance in DISTURBANCES
        if disturbance.fault == f"all writes are denied, from the first write to {MOBILENET_FEATURES} on"
    ]
    judge = lasting.judge()
    raw, features = (f"/{BUCKET}/{STORE}/{table}/a" for table in (RAW_IMAGES, MOBILENET_FEATURES))
    assert judge("PUT", raw, "") is None
    assert judge("GET", features, "") is None
    assert judge("PUT", features, "") is not None
    assert judge("PUT", raw, "") is not None
    assert judge("GET", raw, "") is None


def test_equal_rounds_disturb_the_same_requests() -> None:
    assert len({disturbance.fault for disturbance in DISTURBANCES}) < len(DISTURBANCES)
    first, again = (DISTURBANCES[0].judge() for _ in range(2))
    verdicts = [first("GET", "/", "") for _ in range(2000)]
    assert verdicts == [again("GET", "/", "") for _ in range(2000)]
    assert 50 <= sum(verdict is not None for verdict in verdicts) <= 150


def test_without_go_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FruitsError, match=r"Install Go 1\.\d+\.\d+ or later"):
        built(tmp_path)


def test_an_old_go_is_named_and_downloads_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text('#!/bin/sh\necho "go.mod requires go >= 1.25.0 (GOTOOLCHAIN=$GOTOOLCHAIN)" >&2\nexit 1\n')
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(FruitsError, match=r"Install Go .* requires .*GOTOOLCHAIN=local"):
        built(tmp_path)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    folder = tmp_path_factory.mktemp("versitygw")
    with running(built(folder), folder / "s3") as bucket:
        yield bucket


@pytest.mark.slow
def test_the_server_writes_an_object_only_if_there_is_none(bucket: Bucket) -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
    client = bucket.client()
    client.put_object(Bucket=BUCKET, Key="log/0.json", Body=b"first", IfNoneMatch="*")
    with pytest.raises(client.exceptions.ClientError) as raised:
        client.put_object(Bucket=BUCKET, Key="log/0.json", Body=b"second", IfNoneMatch="*")
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert (bucket.folder / "log" / "0.json").read_bytes() == b"first"


@pytest.mark.slow
def test_the_server_verifies_signatures_also_through_the_proxy(bucket: Bucket) -> None:
    with s3_proxy(lambda *_: None, bucket.address) as address:
        proxied = bucket._replace(address=address)
        proxied.client().put_object(Bucket=BUCKET, Key="file", Body=b"content")
        wrong = proxied.client(secret="wrong")
        with pytest.raises(wrong.exceptions.ClientError) as raised:
            wrong.put_object(Bucket=BUCKET, Key="file", Body=b"other")
    assert raised.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
    assert (bucket.folder / "file").read_bytes() == b"content"
