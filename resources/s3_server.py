"""The S3 server of all clients of this process and of its children, and whether photos may be there."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from spark_jobs.errors import FruitsError
from spark_jobs.store.root import is_loopback, s3_endpoint

if TYPE_CHECKING:
    from botocore.session import Session

# AWS's own servers: https://docs.aws.amazon.com/general/latest/gr/s3.html, and the European Sovereign Cloud.
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.eu", ".amazonaws.com.cn")


def agree_on_server(session: "Session") -> None:
    """Makes the server that boto3 finds the server of pyarrow, deltalake and S3A.

    boto3 reads variables, the profile and its services section, in the order of
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html. `s3_endpoint`, which every
    client asks, reads variables only.
    """
    from botocore.configprovider import ConfiguredEndpointProvider

    # deltalake alone reads this variable.
    os.environ.pop("AWS_ENDPOINT", None)
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            os.environ.pop(name, None)
        return
    endpoint = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
    ).provide()
    if endpoint and endpoint != s3_endpoint():
        os.environ["AWS_ENDPOINT_URL_S3"] = endpoint


def is_of_aws(endpoint: str | None) -> bool:
    """Whether a server is one of AWS, which `None` stands for too."""
    return endpoint is None or (urlsplit(endpoint).hostname or "").endswith(_AWS_DOMAINS)


def check_server(allowed_regions: Sequence[str], allowed_server: str | None) -> None:
    """Raises `FruitsError` for an S3 server that is neither on this machine nor of AWS in an allowed region.

    `allowed_server`, FRUITS_ALLOW_ENDPOINT, permits one more.
    """
    endpoint = s3_endpoint()
    if endpoint is None or endpoint == allowed_server or is_loopback(endpoint):
        return
    parts = (urlsplit(endpoint).hostname or "").split(".")
    if is_of_aws(endpoint) and not set(allowed_regions).isdisjoint(parts):
        return
    raise FruitsError(
        f"The S3 server is {endpoint} (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or endpoint_url of the AWS "
        "profile), which is not a server of AWS in FRUITS_ALLOWED_REGIONS="
        f"{','.join(allowed_regions)}. Remove the address, or, if photos may be there, set "
        f"FRUITS_ALLOW_ENDPOINT={endpoint}."
    )
