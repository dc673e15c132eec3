"""Corrects a permission check of moto's S3. Runs in the process of moto's server."""

from collections.abc import Callable
from typing import Any

import xmltodict
from moto.s3.exceptions import BucketAccessDeniedError, S3AccessDeniedError
from moto.s3.responses import S3Response


def install() -> None:
    """Makes DeleteObjects require the permission on each object, as in S3; moto requires it on the bucket."""
    api: Any = S3Response
    delete_keys: Callable[..., Any] = api._bucket_response_delete_keys

    def check_and_delete(self: Any, bucket_name: str, authenticated: bool = True) -> Any:
        if not authenticated:
            try:
                for key in _keys(self.body):
                    self._authenticate_and_authorize_s3_action(bucket_name, key)
                authenticated = True
            except (BucketAccessDeniedError, S3AccessDeniedError):
                pass
        return delete_keys(self, bucket_name, authenticated)

    api._bucket_response_delete_keys = check_and_delete


def _keys(body: Any) -> list[str]:
    """The keys in the body of a DeleteObjects request."""
    objects = xmltodict.parse(body, strip_whitespace=False)["Delete"].get("Object", [])
    return [entry["Key"] for entry in (objects if isinstance(objects, list) else [objects])]
