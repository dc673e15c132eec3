"""Compares what nodes install, in the bucket of the stack, with what this version of the platform uploads."""

import hashlib
import re
from typing import Any, NamedTuple

from resources.emr.account import BOOTSTRAP, LOCK
from resources.emr.stack import Stack
from resources.instance_types import Architecture
from spark_jobs.store.root import split_s3_uri


class _Object(NamedTuple):
    """The ETag and the size in bytes of an object."""

    etag: str
    size: int


def missing_uploads(s3: Any, stack: Stack, architecture: Architecture) -> list[str]:
    """The uploads of `fruits emr deploy` that are missing or of another version, each as a sentence.

    Nodes check the hash of each wheel when they install it, so only its name and that it is not empty are
    compared. `s3` is a boto3 client. Raises the error of AWS where the uploads may not be listed.
    """
    found = _listed(s3, f"{stack.bootstrap_uri.rpartition('/')[0]}/")
    missing = []
    for file, uri in ((BOOTSTRAP, stack.bootstrap_uri), (LOCK, stack.lock_uri)):
        # The ETag of an object that is encrypted with S3's own keys is the MD5 of its content:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
        etag = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        if uri not in found or found[uri].etag != etag:
            missing.append(f"{uri} is missing or differs from this version")
    wheelhouse = stack.wheelhouse(architecture)
    if wheelhouse is not None:
        there = {
            _package_of(uri.removeprefix(wheelhouse))
            for uri, entry in found.items()
            if uri.startswith(wheelhouse) and entry.size > 0
        }
        pins = re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(), re.MULTILINE)
        missing += [
            f"{wheelhouse} has no wheel of {name} {version}"
            for name, version in pins
            if (_normal(name), version) not in there
        ]
    return missing


def _listed(s3: Any, uri: str) -> dict[str, _Object]:
    """The objects below a URI."""
    bucket, prefix = split_s3_uri(uri)
    return {
        f"s3://{bucket}/{entry['Key']}": _Object(entry["ETag"].strip('"'), entry["Size"])
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for entry in page.get("Contents", [])
    }


def _package_of(wheel: str) -> tuple[str, str]:
    """The normal name and the version of the package in the name of a wheel."""
    name, version, *_ = f"{wheel}--".split("-")
    return _normal(name), version


def _normal(name: str) -> str:
    """A package's name in the form that does not depend on its spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()
