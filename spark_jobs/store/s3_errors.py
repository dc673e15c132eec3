"""Errors of S3 as sentences: the object or bucket, the cause and the remedy.

pyarrow and deltalake raise `OSError`, and Spark raises `Py4JJavaError`, with a text that names the operation
and S3's error code. The answer to a HEAD request has no text, so S3 is asked once more where the code is
missing.
"""

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import NamedTuple

import pyarrow.fs as pafs
from py4j.protocol import Py4JJavaError

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import Root, open_root, s3_endpoint

_PATIENCE_SECONDS = 600.0
_UNCLEAR_SECONDS = 10.0
_ALONE = threading.Lock()

DENIED, ARCHIVED, BUSY, UNCLEAR, REFUSED = "denied", "archived", "busy", "unclear", "refused"
NETWORK = "network"
_BUCKETS_REGION = "the region of the bucket"
# Faults of one object, whose neighbours may well be readable.
OF_AN_OBJECT = (DENIED, ARCHIVED, UNCLEAR, REFUSED)


class Fault(NamedTuple):
    """A fault of S3: its kind, the name of the object or bucket, the cause and the remedy."""

    kind: str
    where: str
    cause: str
    remedy: str

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in (BUSY, NETWORK)


# The fault is the first whose pattern a text contains: the codes of S3 as pyarrow, deltalake and Hadoop write
# them, the kind of the fault, the cause and the remedy. `{region}` is the region of the bucket.
_FAULTS = (
    (
        # pyarrow has room for an answer as long as the object, and loses the reason in a longer answer.
        r"Failed to flush response stream|GetObject operation: $",
        UNCLEAR,
        "S3 refuses the request, and its reason was lost",
        "Check the access, the storage class and the encryption of the object",
    ),
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
        NETWORK,
        "S3 cannot be reached",
        "Check the network, and AWS_ENDPOINT_URL if it is set",
    ),
    (r"", REFUSED, "S3 refuses the request ({reason})", "Check the credentials and the name"),
)

# The texts of an answer without a code: of pyarrow, and of Hadoop with version 1 and 2 of AWS's SDK.
_WITHOUT_CODE = r"No response body|Error Code: 40[03] |null \(Service: S3, Status Code: 40[03]"

# Parts of a text that may look like a code: names (`500.jpg`, `AccessDenied/1.jpg`), and lines of Java.
_NAMES = (
    (r"^\s+at [\w.$/<>]+\([^)]*\)$", ""),
    (r"(?:key '.*?' in )?bucket '[^']*'", ""),
    (r"When reading s3://.*: AWS Error", "AWS Error"),
    (r"(?:https?|s3a?)://\S+", ""),
    (r"<(Key|BucketName|Resource)>.*?</\1>", ""),
)


@contextmanager
def s3_errors_explained() -> Iterator[None]:
    """Turns an error of S3 into a `FruitsError`, and passes on other errors."""
    try:
        yield
    except (OSError, Py4JJavaError) as error:
        if fault := explained(str(error)):
            raise fault from error
        raise


def explained(text: str) -> FruitsError | None:
    """The error of the fault of S3 that a text describes, or None if it describes none."""
    fault = fault_of(text)
    if fault is None:
        return None
    return FruitsError(f"{fault.where}: {fault.cause}. {fault.remedy}.", retry_helps=fault.is_temporary)


def fault_of(text: str) -> Fault | None:
    """The fault of S3 that the text of an error describes, or None if it describes none."""
    if not re.search("AWS Error|S3 error|AmazonS3|S3A|necessary privileges|<Code>NoSuchBucket", text):
        return None
    bucket, key = _place(text)
    if re.search(_WITHOUT_CODE, text) and bucket and not re.search(r"\(HTTP status 50|is located in", text):
        text = _asked_again(bucket) or text
    where = "s3://" + "/".join(part for part in (bucket, key) if part) if bucket else "S3"
    said = text
    for names, instead in _NAMES:
        said = re.sub(names, instead, said, flags=re.DOTALL | re.MULTILINE)
    kind, cause, remedy = next(rest for pattern, *rest in _FAULTS if re.search(pattern, said))
    if kind == "region":
        remedy = remedy.format(region=_region(text, bucket))
    if kind == REFUSED:
        cause = cause.format(reason=_reason(said))
    return Fault(kind, where, cause, remedy)


def read_patiently(root: Root, path: str, most: int | None = None) -> bytes:
    """`Root.read`. Where S3 is too busy, it reads again for ten minutes, one file at a time.

    pyarrow itself tries again for about a minute, in each of many threads, which keeps S3 busy.
    """
    try:
        return root.read(path, most)
    except OSError as error:
        _raise_unless_patient(error, 0)
    begun = time.monotonic()
    with _ALONE:
        for pause in chain((1, 2, 4, 8, 16), repeat(30)):
            time.sleep(random.uniform(0.5, 1) * pause)
            try:
                return root.read(path, most)
            except OSError as error:
                _raise_unless_patient(error, time.monotonic() - begun)
    raise AssertionError  # `repeat` never ends


def _raise_unless_patient(error: OSError, seconds: float) -> None:
    """Raises the error unless a read that has been repeated for some seconds may still succeed."""
    fault = fault_of(str(error))
    patience = {BUSY: _PATIENCE_SECONDS, UNCLEAR: _UNCLEAR_SECONDS}
    if fault is None or seconds >= patience.get(fault.kind, 0):
        raise error


def _place(text: str) -> tuple[str, str]:
    """The bucket and the key that a text names; empty texts if it names none."""
    if named := re.search(r"(?:key '(?P<key>.*?)' in )?bucket '(?P<bucket>[^']*)'", text):
        return named["bucket"], named["key"] or ""
    if named := re.match(r"When reading s3://(?P<bucket>[^/]+)/(?P<key>.*): AWS Error", text, re.DOTALL):
        return named["bucket"], named["key"]
    if named := re.search(r"s3a?://(?P<bucket>[^/\s:]+)/?(?P<key>[^\s:]*)", text):
        return named["bucket"], named["key"]
    if request := re.search(r"https?://(?P<host>[^/\s]+)/(?P<path>[^\s?]*)", text):
        if virtual := re.match(r"(.+)\.s3[.-]", request["host"]):
            return virtual[1], request["path"]
        bucket, _, key = request["path"].partition("/")
        return bucket, key
    return "", ""


def _region(text: str, bucket: str) -> str:
    """The region of the bucket: from the text; else AWS is asked."""
    if found := re.search(r"(?:located in|expecting) '([a-z0-9-]+)'", text):
        return found[1]
    try:
        return str(pafs.resolve_s3_region(bucket)) if bucket and not s3_endpoint() else _BUCKETS_REGION
    except OSError:
        return _BUCKETS_REGION


def _reason(said: str) -> str:
    """S3's own words after the name of the operation, if there are any."""
    found = re.search(r"operation: (?:Unable to parse ExceptionName: )?(.{,200})", said, re.DOTALL)
    return found[1].replace(" Message:", ":").rstrip(" .") if found else "without a reason"


def _asked_again(bucket: str) -> str:
    """The text of the error that a listing of the bucket raises, or an empty text."""
    try:
        open_root(f"s3://{bucket}").fs.get_file_info(pafs.FileSelector(""))
    except OSError as error:
        return str(error)
    return ""
