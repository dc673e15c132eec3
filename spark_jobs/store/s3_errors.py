"""Errors of S3 as sentences: the object or bucket, the cause and the remedy.

pyarrow and deltalake raise `OSError` with a text that names the operation and S3's error code. The answer to
a HEAD request has no text, so S3 is asked once more where the code is missing.
"""

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import NamedTuple

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root, open_root

_PATIENCE_SECONDS = 600.0
_ALONE = threading.Lock()

DENIED, ARCHIVED, BUSY = "denied", "archived", "busy"


class Fault(NamedTuple):
    """A fault of S3: its kind, the name of the object or bucket, the cause and the remedy."""

    kind: str
    where: str
    cause: str
    remedy: str

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in (BUSY, "network")


# The fault is the first whose pattern a text contains: the codes of S3 as pyarrow, deltalake and Hadoop write
# them, the kind of the fault, the cause and the remedy. `{region}` is the region of the bucket.
_FAULTS = (
    (
        r"ExpiredToken|TokenRefreshRequired|RequestExpired",
        "expired",
        "the AWS credentials have expired",
        "Renew them, for instance by: aws sso login",
    ),
    (
        r"INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|InvalidToken|UNRECOGNIZED_CLIENT|InvalidClientTokenId",
        "unknown",
        "AWS does not know the credentials",
        "Check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN",
    ),
    (
        r"SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch",
        "signature",
        "the secret key is wrong",
        "Check AWS_PROFILE or AWS_SECRET_ACCESS_KEY",
    ),
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|status 301|configured region|is located in",
        "region",
        "the bucket is in another region",
        "Set FRUITS_REGION to {region}",
    ),
    (
        r"NO_SUCH_BUCKET|NoSuchBucket",
        "bucket",
        "the bucket does not exist",
        "Correct its name in FRUITS_IMAGES or FRUITS_STORE, or create it",
    ),
    (
        r"InvalidObjectState|code 136\]",
        ARCHIVED,
        "it is archived in Glacier",
        "Restore it: aws s3api restore-object",
    ),
    (
        r"ACCESS_DENIED|AccessDenied|AllAccessDisabled|necessary privileges|403 Forbidden|Code: 403",
        DENIED,
        "AWS denies the access",
        "Allow it in a policy of the user or role",
    ),
    (
        r"SLOW_DOWN|SlowDown|INTERNAL_FAILURE|InternalError|SERVICE_UNAVAILABLE|\b50[0234]\b",
        BUSY,
        "S3 is too busy to answer",
        "Try again later",
    ),
    (
        r"NETWORK_CONNECTION|curlCode|error sending request|REQUEST_TIMEOUT|UnknownHost|Connection refused",
        "network",
        "S3 cannot be reached",
        "Check the network, and AWS_ENDPOINT_URL if it is set",
    ),
    (r"", "refused", "S3 refuses the request", "Check the credentials and the name"),
)


@contextmanager
def s3_errors_explained() -> Iterator[None]:
    """Turns an `OSError` of S3 into a `FruitsError`, and passes on other errors."""
    try:
        yield
    except OSError as error:
        raise explained(str(error)) or error from error


def explained(text: str) -> FruitsError | None:
    """The error of the fault of S3 that a text describes, or None if it describes none."""
    fault = fault_of(text)
    if fault is None:
        return None
    return FruitsError(f"{fault.where}: {fault.cause}. {fault.remedy}.", retry_helps=fault.is_temporary)


def fault_of(text: str) -> Fault | None:
    """The fault of S3 that the text of an error describes, or None if it describes none."""
    if not re.search("AWS Error|S3 error|AmazonS3|S3A|necessary privileges", text):
        return None
    bucket, key = _place(text)
    if "No response body" in text and bucket and not re.search("status 50|is located in", text):
        text = _asked_again(bucket) or text
    where = "s3://" + "/".join(part for part in (bucket, key) if part) if bucket else "S3"
    kind, cause, remedy = next(rest for pattern, *rest in _FAULTS if re.search(pattern, text))
    return Fault(kind, where, cause, remedy.format(region=_region(text)))


def read_patiently(root: Root, path: str) -> bytes:
    """The content of a file. Where S3 is too busy, it reads again for ten minutes, one file at a time.

    pyarrow itself tries again for about a minute, in each of many threads, which keeps S3 busy.
    """
    try:
        return root.read(path)
    except OSError as error:
        _raise_unless_busy(error)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with _ALONE:
        for pause in chain((1, 2, 4, 8, 16), repeat(30)):
            time.sleep(random.uniform(0.5, 1) * pause)
            try:
                return root.read(path)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise
                _raise_unless_busy(error)
    raise AssertionError  # `repeat` never ends


def _raise_unless_busy(error: OSError) -> None:
    fault = fault_of(str(error))
    if fault is None or fault.kind != BUSY:
        raise error


def _place(text: str) -> tuple[str, str]:
    """The bucket and the key that a text names; empty texts if it names none."""
    if named := re.search(r"(?:key '(?P<key>.*?)' in )?bucket '(?P<bucket>[^']*)'", text):
        return named["bucket"], named["key"] or ""
    if named := re.match(r"When reading s3://(?P<bucket>[^/]+)/(?P<key>.*?): AWS", text):
        return named["bucket"], named["key"]
    if request := re.search(r"https?://(?P<host>[^/\s]+)/(?P<path>[^\s?]*)", text):
        if virtual := re.match(r"(.+)\.s3[.-]", request["host"]):
            return virtual[1], request["path"]
        bucket, _, key = request["path"].partition("/")
        return bucket, key
    return "", ""


def _region(text: str) -> str:
    found = re.search(r"(?:located in|expecting) '([a-z0-9-]+)'", text)
    return found[1] if found else "the region of the bucket"


def _asked_again(bucket: str) -> str:
    """The text of the error that a listing of the bucket raises, or an empty text."""
    from pyarrow.fs import FileSelector

    try:
        open_root(f"s3://{bucket}").fs.get_file_info(FileSelector(""))
    except OSError as error:
        return str(error)
    return ""
