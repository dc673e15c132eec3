"""An AWS account on moto, without and with a subnet of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import moto.iam.models
import pytest
from moto import mock_aws
from moto.iam.aws_managed_policies import aws_managed_policies_data

from rehearsal import cloudformation
from resources.emr import account
from resources.emr.stack import CLUSTER_TAGS
from tests.resources.emr.commands import REGION, make_subnet


@pytest.fixture(scope="session")
def emrs_policy() -> str:
    """AWS's managed policy for EMR's role. moto's list of all managed policies takes seconds to load."""
    name = "AmazonEMRServicePolicy_v2"
    return json.dumps({name: json.loads(aws_managed_policies_data)[name]})


@pytest.fixture
def aws_account(emrs_policy: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty AWS account."""
    cloudformation.install()
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setattr(moto.iam.models, "aws_managed_policies_data", emrs_policy)
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield


@pytest.fixture
def subnet(aws_account: None) -> str:
    """The id of a private subnet that exists before the deployment."""
    return make_subnet(CLUSTER_TAGS)


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel without content takes the place of the nodes' packages, whose download takes seconds."""

    def download(lock: Path, folder: Path, architecture: str) -> None:
        folder.mkdir()
        (folder / f"numpy-2.2.0-cp311-cp311-manylinux_2_28_{architecture}.whl").touch()

    monkeypatch.setattr(account, "download_wheels", download)
