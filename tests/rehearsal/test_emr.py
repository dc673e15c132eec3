"""The EMR of the rehearsal: requests that it refuses as EMR does, and its configuration. There is no YARN."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.aws import Aws, client_of, start_aws
from tests.support import wait_for

RELEASE = "emr-7.13.0"
ROLE = "nodes"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """The server with two roles and an instance profile for each; one profile has another name."""
    folder = tmp_path_factory.mktemp("aws")
    with start_aws(folder / "server", None, Path(sys.executable)) as running:
        iam = running.client("iam")
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        for role, profile in ((ROLE, ROLE), ("other", "profile-of-other")):
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
            iam.create_instance_profile(InstanceProfileName=profile)
            iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=role)
        yield running


def start(aws: Aws, core: str = "m5.xlarge", **changes: Any) -> str:
    """The state of a new cluster, or the code and message with which EMR refuses it."""
    groups = [
        {"InstanceRole": role, "InstanceType": kind, "InstanceCount": 1}
        for role, kind in (("MASTER", "m5.xlarge"), ("CORE", core))
    ]
    instances = {"KeepJobFlowAliveWhenNoSteps": True, "InstanceGroups": groups}
    request = {"Name": "test", "ReleaseLabel": RELEASE, "JobFlowRole": ROLE, "ServiceRole": "emr"}
    emr = aws.client("emr")
    try:
        cluster = emr.run_job_flow(**{**request, "Instances": instances, **changes})["JobFlowId"]
    except ClientError as error:
        return "{Code}: {Message}".format(**error.response["Error"])
    return str(emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"])


def test_a_cluster_of_a_profile_and_a_role_of_one_name_starts(aws: Aws) -> None:
    assert start(aws) in ("STARTING", "WAITING")
    arn = aws.client("iam").get_instance_profile(InstanceProfileName=ROLE)["InstanceProfile"]["Arn"]
    assert start(aws, JobFlowRole=arn) in ("STARTING", "WAITING")


@pytest.mark.parametrize("profile", ["absent", "other", "profile-of-other"])
def test_a_profile_whose_role_has_another_name_is_refused(aws: Aws, profile: str) -> None:
    # "Amazon EMR does not support this configuration, and it results in an "invalid instance profile" error":
    # https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-iam-roles-custom.html. The message is that of
    # https://github.com/hashicorp/terraform-provider-aws/blob/main/internal/service/emr/cluster.go
    assert start(aws, JobFlowRole=profile) == f"ValidationException: Invalid InstanceProfile: {profile}."


@pytest.mark.parametrize("kind", ["m5.large", "c5.large", "t3.xlarge", "m5.3xlarge", "m99.xlarge"])
def test_an_instance_type_that_the_release_does_not_offer_is_refused(aws: Aws, kind: str) -> None:
    # moto has the answers of ListSupportedInstanceTypes. The message is that of
    # https://github.com/boto/boto3/issues/3418.
    assert start(aws, kind) == f"ValidationException: Instance type '{kind}' is not supported."


@pytest.mark.parametrize("kind", ["m5.xlarge", "m6i.2xlarge", "m7g.xlarge", "m4.large"])
def test_an_instance_type_that_the_release_offers_is_accepted(aws: Aws, kind: str) -> None:
    assert start(aws, kind) in ("STARTING", "WAITING")


def test_an_unknown_release_is_refused(aws: Aws) -> None:
    assert start(aws, ReleaseLabel="emr-7.99.0") == (
        "ValidationException: The supplied release label is invalid: emr-7.99.0."
    )


@pytest.mark.parametrize(
    ("core_nodes", "configured", "copies"),
    [(1, None, 1), (3, None, 1), (4, None, 2), (9, None, 2), (10, None, 3), (2, "2", 2), (12, "1", 1)],
)
def test_hdfs_keeps_as_many_copies_as_on_emr(
    aws: Aws, core_nodes: int, configured: str | None, copies: int
) -> None:
    # The default of `dfs.replication`: https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hdfs-config.html
    groups = [
        {"InstanceRole": role, "InstanceType": "m5.xlarge", "InstanceCount": count}
        for role, count in (("MASTER", 1), ("CORE", core_nodes))
    ]
    site = {"Classification": "hdfs-site", "Properties": {"dfs.replication": configured}}
    command = ["sh", "-c", "cat $SPARK_CONF_DIR/spark-defaults.conf"]
    emr = aws.client("emr")
    cluster = emr.run_job_flow(
        Name="test",
        ReleaseLabel=RELEASE,
        JobFlowRole=ROLE,
        ServiceRole="emr",
        Instances={"InstanceGroups": groups},
        Configurations=[site] if configured else [],
        Steps=[{"Name": "show", "HadoopJarStep": {"Jar": "command-runner.jar", "Args": command}}],
    )["JobFlowId"]
    [step] = emr.list_steps(ClusterId=cluster)["Steps"]

    def completed() -> bool:
        described = emr.describe_step(ClusterId=cluster, StepId=step["Id"])["Step"]
        return bool(described["Status"]["State"] == "COMPLETED")

    wait_for(completed, 30)
    shown = (aws.step_folder / step["Id"] / "stdout").read_text()
    assert f"spark.hadoop.dfs.replication {copies}\n" in shown


def test_the_server_judges_calls_from_the_moment_when_it_is_told(aws: Aws) -> None:
    iam = aws.client("iam")
    iam.create_user(UserName="eve")
    created = iam.create_access_key(UserName="eve")["AccessKey"]
    keys = {
        "AWS_ACCESS_KEY_ID": created["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": created["SecretAccessKey"],
    }
    emr = client_of({**aws.variables(), **keys}, "emr")
    emr.list_clusters()
    assert aws.decisions() == []
    aws.judge_calls()
    with pytest.raises(ClientError, match="not authorized to perform: elasticmapreduce:ListClusters"):
        emr.list_clusters()
    [decision] = aws.decisions()
    assert decision["principal"].endswith(":user/eve") and not decision["allowed"]
    assert start(aws) in ("STARTING", "WAITING")  # the rehearsal itself is not judged
