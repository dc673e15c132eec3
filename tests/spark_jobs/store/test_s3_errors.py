"""Each fault of S3 is one sentence that names the object or bucket, the cause and the remedy."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
from py4j.protocol import Py4JJavaError

from benchmarks.faults.s3_proxy import (
    ARCHIVED,
    DENIED,
    EXPIRED,
    NO_BUCKET,
    OTHER_REGION,
    SLOW_DOWN,
    UNKNOWN_KEY,
    WRONG_SECRET,
    Cut,
    Refusal,
    s3_proxy,
)
from spark_jobs.errors import FruitsError
from spark_jobs.photos.read_photos import read_photo
from spark_jobs.store.erasures import ERASED_MEANWHILE, ERASURES
from spark_jobs.store.leases import Lease
from spark_jobs.store.photos import Photo
from spark_jobs.store.root import Root, open_root, s3_endpoint, s3_region
from spark_jobs.store.s3_errors import explained, read_patiently, s3_errors_explained
from spark_jobs.store.schemas import COLUMNS_VERSION, RAW_IMAGES, SCHEMAS
from spark_jobs.store.tables import (
    log_entry,
    open_table,
    replace_classes,
    set_table_property,
    table_property,
    upgrade_table,
)
from spark_jobs.tasks import _task_error
from tests.s3_server import s3_bucket
from tests.spark_jobs.store.written import TABLE, commit_class, rows_of, write_earlier_table


@pytest.fixture(autouse=True)
def aws_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "eu-west-3",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    yield
    open_root.cache_clear()


@pytest.fixture
def two_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow makes each request twice, not for a minute."""
    monkeypatch.setattr("spark_jobs.store.root.S3_ATTEMPTS", 2)


REQUESTS: dict[str, Callable[[Root], object]] = {
    "look": lambda root: root.has("a photo.jpg"),
    "read": lambda root: read_patiently(root, "a photo.jpg"),
    "list": lambda root: root.list("folder"),
    "write": lambda root: root.write("a photo.jpg", b"content"),
    "table": lambda root: open_table(root, "raw_images"),
}

SENTENCES = {
    EXPIRED: "the AWS credentials have expired. Renew them, for instance by: aws sso login.",
    UNKNOWN_KEY: "AWS does not know the credentials. Check AWS_PROFILE, or AWS_ACCESS_KEY_ID and ",
    WRONG_SECRET: "the secret key is wrong. Check AWS_PROFILE or AWS_SECRET_ACCESS_KEY.",
    DENIED: "AWS denies the access. Allow it in a policy of the user or role.",
    OTHER_REGION: "the bucket is in another region. Set FRUITS_REGION to eu-west-1.",
}


@pytest.mark.parametrize("refusal", SENTENCES, ids=lambda refusal: refusal.code)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_refusal_names_the_place_the_cause_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, refusal: Refusal, request_: str
) -> None:
    with s3_proxy(lambda *_: refusal) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        root = open_root("s3://fruits/store")
        with pytest.raises(FruitsError) as raised, s3_errors_explained():
            REQUESTS[request_](root)
    assert str(raised.value).startswith("s3://fruits")
    assert SENTENCES[refusal] in str(raised.value)
    assert not raised.value.retry_helps
    if request_ in ("look", "read", "write"):
        assert str(raised.value).startswith("s3://fruits/store/a photo.jpg: ")


def test_a_write_to_a_missing_bucket_names_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_proxy(lambda *_: NO_BUCKET) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        root = open_root("s3://fruits/store")
        with (
            pytest.raises(FruitsError, match=r"the bucket does not exist. Correct"),
            s3_errors_explained(),
        ):
            root.write("file", b"content")


def test_a_commit_to_a_bucket_that_vanished_names_the_bucket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # NoSuchBucket has the status of a missing object, of which deltalake tells:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    def no_writes(method: str, path: str, key: str) -> Refusal | None:
        return NO_BUCKET if method == "PUT" else None

    with s3_bucket(tmp_path) as uri, s3_proxy(no_writes, s3_endpoint()) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        open_root.cache_clear()
        root = open_root(f"{uri}/store")
        with pytest.raises(FruitsError) as raised, s3_errors_explained():
            replace_classes(root, RAW_IMAGES, {"Kiwi": []}, Lease(root, "run", ""))
    assert "s3://fruits/store/raw_images/_delta_log/" in str(raised.value)
    assert "the bucket does not exist. Correct its name in FRUITS_IMAGES or FRUITS_STORE" in str(raised.value)


def commit(uri: str) -> None:
    """Creates a table, commits a class twice, and sets a property."""
    root = open_root(uri)
    commit_class(root, "Kiwi", ["1.jpg"])
    commit_class(root, "Kiwi", ["1.jpg", "2.jpg"])
    set_table_property(root, TABLE, "fruits.test", "value")


def upgrade(uri: str) -> None:
    """Adds columns to a table, and sets a property."""
    upgrade_table(open_root(uri), TABLE)


@contextmanager
def breaking(uri: str, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Breaks the connection of the first attempt at each entry of a log; the names of these entries."""
    broken: set[str] = set()

    def break_first(method: str, path: str, key: str) -> Cut | None:
        entry = path.removeprefix(f"/{uri.removeprefix('s3://')}/")
        if method != "PUT" or "/_delta_log/" not in entry or entry in broken:
            return None
        broken.add(entry)
        return cut

    with s3_proxy(break_first, s3_endpoint()) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        open_root.cache_clear()
        yield broken


def run_alone(function: Callable[[str], None], uri: str) -> None:
    """Calls a function in a process of its own.

    deltalake holds Python's lock while it sets a property, and a proxy of this process would wait for it.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(function, uri).result()


def entries(root: Root) -> list[str]:
    return sorted(info.path for info in root.list(f"{TABLE}/_delta_log"))


# The connection breaks before S3 has made the commit, or before its answer.
@pytest.mark.parametrize("cut", Cut)
def test_a_commit_whose_connection_breaks_is_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cut: Cut
) -> None:
    with s3_bucket(tmp_path) as bucket, breaking(f"{bucket}/store", cut, monkeypatch) as broken:
        root = open_root(f"{bucket}/store")
        run_alone(commit, root.uri)
        assert rows_of(root) == {"Kiwi": 2}
        assert table_property(root, TABLE, "fruits.test") == "value"
        assert entries(root) == sorted(broken) == [log_entry(TABLE, version) for version in range(4)]


@pytest.mark.parametrize("cut", Cut)
def test_an_upgrade_whose_connection_breaks_is_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cut: Cut
) -> None:
    with s3_bucket(tmp_path) as bucket:
        write_earlier_table(open_root(f"{bucket}/store"))
        with breaking(f"{bucket}/store", cut, monkeypatch) as broken:
            root = open_root(f"{bucket}/store")
            earlier = entries(root)
            run_alone(upgrade, root.uri)
            assert rows_of(root) == {"Kiwi": 1}
            opened = open_table(root, TABLE)
            assert opened and [field.name for field in opened.schema().fields] == SCHEMAS[TABLE].names
            assert table_property(root, TABLE, "fruits.columns") == str(COLUMNS_VERSION)
            assert sorted(broken) == [log_entry(TABLE, version) for version in (2, 3)]
            assert entries(root) == [*earlier, *sorted(broken)]


def test_a_commit_whose_answer_is_lost_tells_of_photos_that_were_erased_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The erasure has looked for the photos before the commit, the run has asked for erasures before it."""
    with s3_bucket(tmp_path) as uri:
        root = open_root(f"{uri}/store")
        commit_class(root, "Kiwi", ["1.jpg"])

        def erase(method: str, path: str, key: str) -> Cut | None:
            if method != "PUT" or not path.endswith(log_entry(TABLE, 2)) or root.has(f"{ERASURES}/1.json"):
                return None
            root.write(f"{ERASURES}/1.json", b"{}")
            return Cut.AFTER

        with s3_proxy(erase, s3_endpoint()) as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            open_root.cache_clear()
            with pytest.raises(FruitsError, match=ERASED_MEANWHILE):
                commit_class(open_root(f"{uri}/store"), "Kiwi", ["2.jpg"])
        assert rows_of(root) == {"Kiwi": 1}
        assert root.has(log_entry(TABLE, 2))


def test_an_archived_object_is_named_with_the_command_that_restores_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def only_reads(method: str, path: str, key: str) -> Refusal | None:
        return ARCHIVED if method == "GET" and path.endswith("a photo.jpg") else None

    with s3_bucket(tmp_path) as uri:
        open_root(uri).write("a photo.jpg", b"content" * 1000)
        with s3_proxy(only_reads, s3_endpoint()) as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            open_root.cache_clear()
            with (
                pytest.raises(FruitsError, match=r"a photo.jpg: it is archived in Glacier. Restore"),
                s3_errors_explained(),
            ):
                read_patiently(open_root(uri), "a photo.jpg")


@pytest.mark.usefixtures("two_attempts")
def test_a_server_that_does_not_answer_is_named_and_a_retry_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_proxy(lambda *_: DENIED) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with (
        pytest.raises(FruitsError, match="S3 cannot be reached") as raised,
        s3_errors_explained(),
    ):
        open_root("s3://fruits/store").has("file")
    assert raised.value.retry_helps


@pytest.mark.usefixtures("two_attempts")
def test_a_busy_server_is_asked_again_until_it_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock, refused = threading.Lock(), 0

    def busy_at_first(method: str, path: str, key: str) -> Refusal | None:
        nonlocal refused
        with lock:
            if refused == 5:
                return None
            refused += 1
        return SLOW_DOWN

    with s3_bucket(tmp_path) as uri:
        open_root(uri).write("a photo.jpg", b"content")
        with s3_proxy(busy_at_first, s3_endpoint()) as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            open_root.cache_clear()
            with (
                pytest.raises(FruitsError, match="S3 is too busy to answer"),
                s3_errors_explained(),
            ):
                open_root(uri).read("a photo.jpg")
            assert refused == 2
            assert read_patiently(open_root(uri), "a photo.jpg") == b"content"
            assert refused == 5


def test_patience_passes_on_other_errors_at_once(store: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_patiently(open_root(store), "none")


NAMES_LIKE_CODES = ["500.jpg", "AccessDenied/1.jpg", "status 301/SlowDown.jpg", "NoSuchBucket 503.jpg"]


@pytest.mark.usefixtures("two_attempts")
@pytest.mark.parametrize("name", NAMES_LIKE_CODES)
@pytest.mark.parametrize("refusal", [WRONG_SECRET, EXPIRED], ids=lambda refusal: refusal.code)
def test_a_name_that_looks_like_a_code_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, name: str, refusal: Refusal
) -> None:
    with s3_proxy(lambda *_: refusal) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        root = open_root("s3://fruits/503")
        calls: list[Callable[[], object]] = [
            lambda: read_patiently(root, name),
            lambda: root.has(name),
            lambda: root.write(name, b"content"),
        ]
        for call in calls:
            with pytest.raises(FruitsError) as raised, s3_errors_explained():
                call()
            assert str(raised.value) == f"s3://fruits/503/{name}: {SENTENCES[refusal]}"


OF_AN_OBJECT = {
    Refusal(400, "KMS.DisabledException", "The key 1234 is disabled."): (
        "S3 refuses the request (KMS.DisabledException: The key 1234 is disabled). Check"
    ),
    Refusal(400, "InvalidRequest", "The object was stored using another key."): (
        "S3 refuses the request (The object was stored using another key). Check"
    ),
    ARCHIVED: "it is archived in Glacier. Restore it: aws s3api restore-object.",
    DENIED: "AWS denies the access. Allow it in a policy of the user or role.",
    Refusal(301, "PermanentRedirect", "Use the specified endpoint."): (
        "the bucket is in another region. Set FRUITS_REGION to the region of the bucket."
    ),
}


@pytest.mark.parametrize("refusal", OF_AN_OBJECT, ids=lambda refusal: refusal.code)
def test_the_refusal_of_one_object_says_the_words_of_s3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusal: Refusal
) -> None:
    def only_reads(method: str, path: str, key: str) -> Refusal | None:
        return refusal if method == "GET" and path.endswith(".jpg") else None

    with s3_bucket(tmp_path) as uri:
        open_root(uri).write_many([("1.jpg", b"content" * 1000), ("small.jpg", b"content")])
        with s3_proxy(only_reads, s3_endpoint()) as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            open_root.cache_clear()
            with pytest.raises(FruitsError) as raised, s3_errors_explained():
                read_patiently(open_root(uri), "1.jpg")
            assert str(raised.value).startswith(f"s3://fruits/1.jpg: {OF_AN_OBJECT[refusal]}")
            monkeypatch.setattr("spark_jobs.store.s3_errors._UNCLEAR_SECONDS", 0)
            with (
                pytest.raises(FruitsError, match="its reason was lost"),
                s3_errors_explained(),
            ):
                read_patiently(open_root(uri), "small.jpg")


# What Spark raised when a server refused a HEAD request, whose answer has no code: with Hadoop 3.3 and
# version 1 of AWS's SDK, and with Hadoop 3.4 and version 2. A line of Java has a number like a status.
OF_HADOOP = {
    "version 1": (
        "An error occurred while calling None.org.apache.spark.api.java.JavaSparkContext.\n"
        ": org.apache.hadoop.fs.s3a.AWSBadRequestException: getFileStatus on s3://fruits/store/spark-events: "
        "com.amazonaws.services.s3.model.AmazonS3Exception: Bad Request (Service: Amazon S3; Status Code: "
        "400; Error Code: 400 Bad Request; Request ID: 1; S3 Extended Request ID: 1=; Proxy: null)\n"
        "\tat java.base/java.lang.reflect.Constructor.newInstanceWithCaller(Constructor.java:500)\n"
        "\tat org.apache.spark.SparkContext.<init>(SparkContext.scala:632)\n"
    ),
    "version 2": (
        "An error occurred while calling o55.load.\n: java.nio.file.AccessDeniedException: "
        "s3a://fruits/store/500: getFileStatus on s3a://fruits/store/500: software.amazon.awssdk.services.s3"
        ".model.S3Exception: null (Service: S3, Status Code: 403, Request ID: 1):null\n"
        "\tat org.apache.hadoop.fs.s3a.S3AUtils.translateException(S3AUtils.java:265)"
    ),
}


@pytest.mark.parametrize("refusal", SENTENCES, ids=lambda refusal: refusal.code)
@pytest.mark.parametrize("sdk", OF_HADOOP)
def test_a_refusal_that_spark_was_not_told_is_found_out(
    monkeypatch: pytest.MonkeyPatch, sdk: str, refusal: Refusal
) -> None:
    with s3_proxy(lambda *_: refusal) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        error = explained(OF_HADOOP[sdk])
    assert str(error).startswith(f"s3://fruits/store/{'500' if '2' in sdk else 'spark-events'}: ")
    assert SENTENCES[refusal] in str(error)


def test_an_error_of_the_disk_is_no_fault_of_s3() -> None:
    assert explained("[Errno 28] No space left on device") is None
    with pytest.raises(PermissionError) as raised, s3_errors_explained():
        raise PermissionError(13, "Permission denied", "/data/store")
    assert raised.value.__cause__ is None


def test_a_failed_task_says_the_fault_of_s3() -> None:
    class JavaError:
        def getMessage(self) -> str:
            return (
                "Job aborted.\nTraceback (most recent call last):\n  File x\n"
                "OSError: When reading information for key 'Kiwi/1.jpg' in bucket 'photos': AWS Error "
                "SLOW_DOWN during GetObject operation: Please reduce your request rate.\n\n\tat org.apache"
            )

    error = Py4JJavaError.__new__(Py4JJavaError)
    error.java_exception = JavaError()
    fault = _task_error("raw_images", error)
    assert str(fault) == "s3://photos/Kiwi/1.jpg: S3 is too busy to answer. Try again later."
    assert fault.retry_helps


@pytest.mark.parametrize("address", ["http://s3.example.org", "http://10.0.0.1:9000"])
def test_an_address_without_encryption_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(FruitsError, match=rf"AWS_ENDPOINT_URL={address} is not encrypted"):
        open_root("s3://fruits/store")


@pytest.mark.parametrize("address", ["https://s3.example.org", "http://127.0.0.1:1", "http://localhost:1"])
def test_an_encrypted_address_and_this_machine_are_accepted(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    assert s3_endpoint() == address


def test_the_region_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    s3_region.cache_clear()
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert s3_region("fruits") == "eu-north-1"
    s3_region.cache_clear()


def test_s3a_is_another_name_of_s3() -> None:
    assert open_root("s3a://fruits/store").uri == "s3://fruits/store"


OUTSIDE = ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "", "a\0b"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_a_root(store: str, path: str) -> None:
    root = open_root(store)
    calls: list[Callable[[], object]] = [
        lambda: root.read(path),
        lambda: root.write(path, b""),
        lambda: root.create(path),
        lambda: root.copy(path, "copy"),
        lambda: root.copy("original", path),
        lambda: root.remove(path),
        lambda: root.remove_file(path),
        lambda: root.has(path),
    ]
    root.write("original", b"")
    for call in calls:
        with pytest.raises(FruitsError, match="is not the path of a file inside"):
            call()
    assert sorted(os.listdir(store)) == ["original"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_photo_is_bad_only_while_the_run_can_still_list_the_photos(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: bool
) -> None:
    """Without keys, as after a renewal that failed, S3 denies every request."""

    def denies(method: str, path: str, key: str) -> Refusal | None:
        return DENIED if lost or path.endswith("a photo.jpg") else None

    with s3_bucket(tmp_path) as uri:
        open_root(uri).write("Kiwi/a photo.jpg", b"content" * 1000)
        with s3_proxy(denies, s3_endpoint()) as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            open_root.cache_clear()
            photo = Photo("Kiwi/a photo.jpg", 7000, 0)
            if lost:
                with pytest.raises(OSError, match="ACCESS_DENIED"):
                    read_photo(open_root(uri), photo, max_bytes=1_000_000)
            else:
                bad = read_photo(open_root(uri), photo, max_bytes=1_000_000)
                assert "AWS denies the access" in str(bad)
