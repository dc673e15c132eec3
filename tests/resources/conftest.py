"""The instance types that EMR offers."""

from typing import Any

import boto3
import pytest
from moto import mock_aws

from resources.settings import Settings


@pytest.fixture(scope="session")
def offered() -> dict[str, dict[str, Any]]:
    """EMR's answer to ListSupportedInstanceTypes for the default release, by type, as moto has captured it.

    https://docs.aws.amazon.com/emr/latest/APIReference/API_ListSupportedInstanceTypes.html
    """
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    with mock_aws():
        emr = boto3.client("emr", region_name="eu-west-3", **keys)
        release = Settings.model_fields["emr_release"].default
        types = emr.list_supported_instance_types(ReleaseLabel=release)["SupportedInstanceTypes"]
    return {entry["Type"]: entry for entry in types}
