"""Removes from S3 what a listing of objects does not show: old versions, delete markers, unfinished uploads.

In a bucket with versions, a deletion only hides an object, and each write keeps the object before it. An
unfinished upload in parts keeps its parts. All functions take the URI of a root, `s3://bucket/prefix`, and
reach only what is below it. They raise `FruitsError` where S3 refuses or cannot be reached; then they can be
called again.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from resources.emr.aws import aws_errors_named
from resources.s3_client import s3_client
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import concurrently, split_s3_uri

# The most that one DeleteObjects takes: https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
_BATCH = 1000
_NAMED = 5  # objects that an error names


class _Place(NamedTuple):
    """A root on S3. Its prefix ends with a slash, unless it is empty."""

    client: Any
    bucket: str
    prefix: str


class _Version(NamedTuple):
    """A version of an object, or a delete marker. The newest of its key is `current`."""

    key: str
    id: str
    current: bool
    marker: bool


def count_old_versions(uri: str) -> int:
    """The number of old versions and delete markers that `remove_old_versions` would remove."""
    with _opened(uri) as place:
        return len(_old_versions(place))


def remove_old_versions(uri: str) -> int:
    """Removes for good all versions that are not current, and all delete markers; returns their number.

    A bucket that never had versions has none. Current objects stay.
    """
    with _opened(uri) as place:
        # The whole listing comes first: a page begins after a version, which must not be gone by then.
        return _remove(place, _old_versions(place))


def remove_objects(uri: str, paths: Collection[str]) -> int:
    """Removes objects for good, with all their versions; returns the number of objects that were there.

    `paths` are relative to the root. A missing object is no error.
    """
    with _opened(uri) as place:
        found = concurrently(lambda path: _versions_of(place, f"{place.prefix}{path}"), sorted(set(paths)))
        _remove(place, [version for of_object in found for version in of_object])
    return sum(any(not version.marker for version in of_object) for of_object in found)


def count_uploads(uri: str, keep: Callable[[str], bool]) -> int:
    """The number of unfinished uploads that `abort_uploads` would abort."""
    with _opened(uri) as place:
        return len(_uploads(place, keep))


def abort_uploads(uri: str, keep: Callable[[str], bool]) -> int:
    """Aborts the unfinished uploads below a root, unless `keep` says that a living run writes the object.

    `keep` gets the path of the object, relative to the root. Returns the number of uploads.
    """
    from botocore.exceptions import ClientError

    with _opened(uri) as place:

        def abort(upload: tuple[str, str]) -> int:
            key, identity = upload
            try:
                place.client.abort_multipart_upload(Bucket=place.bucket, Key=key, UploadId=identity)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchUpload":  # it has ended meanwhile
                    raise
                return 0
            return 1

        return sum(concurrently(abort, _uploads(place, keep)))


@contextmanager
def _opened(uri: str) -> Iterator[_Place]:
    """The place of a root, with a sentence for each error of AWS."""
    bucket, prefix = split_s3_uri(uri)
    prefix = prefix.rstrip("/")
    with aws_errors_named():
        yield _Place(s3_client(bucket), bucket, f"{prefix}/" if prefix else "")


def _old_versions(place: _Place) -> list[_Version]:
    return [
        version
        for page in _version_pages(place, place.prefix)
        for version in page
        if version.marker or not version.current
    ]


def _versions_of(place: _Place, key: str) -> list[_Version]:
    """All versions and delete markers of one key."""
    found: list[_Version] = []
    for page in _version_pages(place, key):
        own = [version for version in page if version.key == key]
        found += own
        if len(own) < len(page):  # the keys that begin with this key come after it
            break
    return found


def _version_pages(place: _Place, prefix: str) -> Iterator[list[_Version]]:
    """Pages of all versions and delete markers of the keys with a prefix, in the order of their keys."""
    pages = place.client.get_paginator("list_object_versions").paginate(Bucket=place.bucket, Prefix=prefix)
    for page in pages:
        yield [
            _Version(entry["Key"], entry["VersionId"], entry["IsLatest"], kind == "DeleteMarkers")
            for kind in ("Versions", "DeleteMarkers")
            for entry in page.get(kind, ())
        ]


def _uploads(place: _Place, keep: Callable[[str], bool]) -> list[tuple[str, str]]:
    """The key and the id of each unfinished upload that is not to keep."""
    pages = place.client.get_paginator("list_multipart_uploads").paginate(
        Bucket=place.bucket, Prefix=place.prefix
    )
    return [
        (entry["Key"], entry["UploadId"])
        for page in pages
        for entry in page.get("Uploads", ())
        if not keep(entry["Key"].removeprefix(place.prefix))
    ]


def _remove(place: _Place, versions: Collection[_Version]) -> int:
    """Removes versions for good; returns their number.

    The newest of each key go last: without it, an older version that S3 refused to delete would be current.
    """

    def delete(batch: Sequence[_Version]) -> list[dict[str, str]]:
        named = [{"Key": version.key, "VersionId": version.id} for version in batch]
        answer = place.client.delete_objects(Bucket=place.bucket, Delete={"Objects": named, "Quiet": True})
        return list(answer.get("Errors", ()))

    for newest in (False, True):
        wanted = [version for version in versions if version.current == newest]
        batches = [wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH)]
        if errors := [error for answer in concurrently(delete, batches) for error in answer]:
            raise _refused(place.bucket, errors)
    return len(versions)


def _refused(bucket: str, errors: Sequence[Mapping[str, str]]) -> FruitsError:
    named = "; ".join(
        f"s3://{bucket}/{error['Key']} ({error.get('Code')}: {error.get('Message')})"
        for error in errors[:_NAMED]
    )
    more = f" and {len(errors) - _NAMED:,} more" if len(errors) > _NAMED else ""
    return FruitsError(
        f"S3 did not delete {named}{more}. Use credentials with the stack's policy for erasure "
        "(ErasurePolicyArn), and run the command again."
    )
