"""Translates a call of S3 into the requests that IAM evaluates for it: action, ARN and condition keys.

The actions are those of "Required permissions for Amazon S3 API operations"
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html).
Every function raises `NotImplementedError` for a call that the rehearsal does not know.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import xmltodict
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import FakeBucket, FakeDeleteMarker, s3_backends

from rehearsal.calls import Call
from rehearsal.policies import Context, Document, Request

# Parameters of a query that choose no other action.
_PLAIN = frozenset(
    {
        *("continuation-token", "delimiter", "encoding-type", "fetch-owner", "key-marker", "list-type"),
        *("marker", "max-keys", "max-parts", "max-uploads", "part-number-marker", "prefix", "start-after"),
        *("upload-id-marker", "version-id-marker", "versionId", "x-id"),
    }
)

# The actions on the settings of a bucket, for GET, PUT and DELETE.
_SETTINGS: Mapping[str, tuple[str | None, str | None, str | None]] = {
    "acl": ("GetBucketAcl", "PutBucketAcl", None),
    "encryption": ("GetEncryptionConfiguration", "PutEncryptionConfiguration", "PutEncryptionConfiguration"),
    "lifecycle": ("GetLifecycleConfiguration", "PutLifecycleConfiguration", "PutLifecycleConfiguration"),
    "location": ("GetBucketLocation", None, None),
    "logging": ("GetBucketLogging", "PutBucketLogging", None),
    "ownershipControls": (
        "GetBucketOwnershipControls",
        "PutBucketOwnershipControls",
        "PutBucketOwnershipControls",
    ),
    "policy": ("GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy"),
    "policyStatus": ("GetBucketPolicyStatus", None, None),
    "publicAccessBlock": (
        "GetBucketPublicAccessBlock",
        "PutBucketPublicAccessBlock",
        "PutBucketPublicAccessBlock",
    ),
    "replication": (
        "GetReplicationConfiguration",
        "PutReplicationConfiguration",
        "PutReplicationConfiguration",
    ),
    "tagging": ("GetBucketTagging", "PutBucketTagging", "PutBucketTagging"),
    "uploads": ("ListBucketMultipartUploads", None, None),
    "versioning": ("GetBucketVersioning", "PutBucketVersioning", None),
    "versions": ("ListBucketVersions", None, None),
}

# The actions on an object and on its parts, by the method and the parameters of the query that choose them.
_ON_OBJECTS: Mapping[tuple[str, frozenset[str]], str] = {
    ("GET", frozenset()): "GetObject",
    ("GET", frozenset({"partNumber"})): "GetObject",
    ("GET", frozenset({"uploadId"})): "ListMultipartUploadParts",
    ("HEAD", frozenset()): "GetObject",
    ("HEAD", frozenset({"partNumber"})): "GetObject",
    ("PUT", frozenset()): "PutObject",
    ("PUT", frozenset({"partNumber", "uploadId"})): "PutObject",
    ("POST", frozenset({"uploads"})): "PutObject",
    ("POST", frozenset({"uploadId"})): "PutObject",
    ("DELETE", frozenset()): "DeleteObject",
    ("DELETE", frozenset({"uploadId"})): "AbortMultipartUpload",
}

# Condition keys that AWS has for a list, each a parameter of its query.
_LIST_KEYS = ("prefix", "delimiter", "max-keys")


class Deletion(NamedTuple):
    """One object in the body of DeleteObjects."""

    entry: Mapping[str, str]
    request: Request


def bucket_and_key(call: Call) -> tuple[str, str]:
    """The bucket and the key in the path of a call; both may be empty."""
    bucket, _, key = call.path.removeprefix("/").partition("/")
    return bucket, key


def requests_of(call: Call) -> list[Request]:
    """The requests that a call of S3 needs; DeleteObjects needs those of `deletions` instead."""
    bucket, key = bucket_and_key(call)
    chosen = frozenset(call.query) - _PLAIN - {name for name in call.query if name.startswith("response-")}
    if key:
        return _on_object(call, bucket, key, chosen)
    return [_on_bucket(call, bucket, chosen)] if bucket else [_on_service(call, chosen)]


def deletes_objects(call: Call) -> bool:
    """Whether a call is DeleteObjects, which AWS judges for each object."""
    return call.operation == "POST" and "delete" in call.query


def deletions(call: Call, body: bytes) -> list[Deletion]:
    """The objects that the body of DeleteObjects names, with the request that each needs."""
    bucket, _ = bucket_and_key(call)
    found: Any = xmltodict.parse(body, strip_whitespace=False)["Delete"].get("Object", [])
    return [
        Deletion(entry, _object_request("DeleteObject", bucket, entry["Key"], entry.get("VersionId")))
        for entry in (found if isinstance(found, list) else [found])
    ]


def bucket_policy(call: Call) -> Document | None:
    """The policy of the bucket of a call, as moto keeps it."""
    bucket = _bucket(bucket_and_key(call)[0])
    if bucket is None or bucket.policy is None:
        return None
    document: Document = json.loads(bucket.policy)
    return document


def _on_service(call: Call, chosen: frozenset[str]) -> Request:
    if call.operation == "GET" and not chosen:
        return Request("s3:ListAllMyBuckets", "*")
    raise _unknown(call, chosen)


def _on_bucket(call: Call, bucket: str, chosen: frozenset[str]) -> Request:
    arn = f"arn:aws:s3:::{bucket}"
    if not chosen:
        # HeadBucket needs the permission to list, without a prefix:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html
        actions = {"GET": "ListBucket", "HEAD": "ListBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
        action = actions.get(call.operation)
    else:
        [setting, *others] = chosen
        methods = ("GET", "PUT", "DELETE")
        action = None
        if not others and setting in _SETTINGS and call.operation in methods:
            action = _SETTINGS[setting][methods.index(call.operation)]
    if action is None:
        raise _unknown(call, chosen)
    lists = action in ("ListBucket", "ListBucketVersions")
    return Request(f"s3:{action}", arn, _list_context(call.query) if lists else {})


def _list_context(query: Mapping[str, str]) -> Context:
    return {f"s3:{name}": query[name] for name in _LIST_KEYS if name in query}


def _on_object(call: Call, bucket: str, key: str, chosen: frozenset[str]) -> list[Request]:
    if (call.operation, chosen) not in _ON_OBJECTS:
        raise _unknown(call, chosen)
    asked = [_object_request(_ON_OBJECTS[call.operation, chosen], bucket, key, call.query.get("versionId"))]
    if call.operation == "PUT":
        asked += [
            Request(f"s3:{action}", asked[0].resource)
            for header, action in (("x-amz-acl", "PutObjectAcl"), ("x-amz-tagging", "PutObjectTagging"))
            if header in call.headers
        ]
        if "x-amz-copy-source" in call.headers:
            source = urlsplit(call.headers["x-amz-copy-source"])
            from_bucket, _, from_key = unquote(source.path).removeprefix("/").partition("/")
            [version] = parse_qs(source.query).get("versionId", [None])
            asked.append(_object_request("GetObject", from_bucket, from_key, version))
    # S3 tells that an object does not exist only to a caller who may list its key:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
    if call.operation in ("GET", "HEAD") and "uploadId" not in chosen and not _exists(bucket, key):
        asked.append(Request("s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": key}))
    return asked


def _object_request(action: str, bucket: str, key: str, version: str | None) -> Request:
    """The request for an object, or for a version of it, whose action has another name."""
    versioned = version is not None and action in ("GetObject", "DeleteObject")
    context = {"s3:VersionId": version} if versioned and version is not None else {}
    return Request(f"s3:{action}{'Version' if versioned else ''}", f"arn:aws:s3:::{bucket}/{key}", context)


def _bucket(name: str) -> FakeBucket | None:
    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.get(name)


def _exists(bucket: str, key: str) -> bool:
    found = _bucket(bucket)
    return found is not None and key in found.keys and not isinstance(found.keys[key], FakeDeleteMarker)


def _unknown(call: Call, chosen: frozenset[str]) -> NotImplementedError:
    bucket, key = bucket_and_key(call)
    level = "an object" if key else "a bucket" if bucket else "the service"
    query = f" with ?{'&'.join(sorted(chosen))}" if chosen else ""
    return NotImplementedError(
        f"rehearsal/s3_permissions.py does not know which permission {call.operation} on {level}{query} needs"
    )
