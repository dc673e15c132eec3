"""`fruits emr destroy`, on moto's CloudFormation, EMR and S3."""

import boto3
import pytest
from moto.cloudformation.models import CloudFormationBackend

from resources.emr.stack import stack_outputs
from resources.emr.teardown import contents
from tests.resources.emr.commands import add_failure, deploy, fruits, settings

# moto's CloudFormation does not create bucket policies, and warns about it.
pytestmark = [
    pytest.mark.usefixtures("aws_account"),
    pytest.mark.filterwarnings("ignore:.*AWS..S3..BucketPolicy"),
]


def _fill(bucket: str, keys: int) -> None:
    """Puts objects, each twice, and deletes one, in a bucket that keeps versions."""
    s3 = boto3.client("s3")
    # As in the template, whose setting moto's CloudFormation ignores.
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(keys):
        for _ in range(2):
            s3.put_object(Bucket=bucket, Key=f"photos/Kiwi/{number}.jpg", Body=b"photo")
    s3.delete_object(Bucket=bucket, Key="photos/Kiwi/0.jpg")


def test_destroy_counts_the_objects_and_asks_first(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    _fill(stack.bucket, 3)
    found = contents(settings(), stack)
    # The first photo is deleted, so both its versions are old. Bootstrap action and lock are two objects.
    assert (found.objects, found.old_versions) == (2 + 2, 2 + 2)
    output = fruits("destroy", answer="n\n", exits=1)
    assert f"the bucket {stack.bucket} with 4 objects and 4 old versions" in " ".join(output.split())
    assert contents(settings(), stack) == found


def test_destroy_removes_everything(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    _fill(stack.bucket, 600)  # one call lists or deletes at most 1,000 versions
    # EMR adds its own rules to the groups, which CloudFormation does not delete.
    boto3.client("ec2").authorize_security_group_ingress(
        GroupId=stack.core_security_group,
        IpPermissions=[
            {
                "IpProtocol": "tcp",
                "FromPort": 0,
                "ToPort": 65535,
                "UserIdGroupPairs": [{"GroupId": stack.primary_security_group}],
            }
        ],
    )
    # AWS, unlike moto, deletes no attached policy.
    iam = boto3.client("iam")
    iam.create_user(UserName="operator")
    iam.attach_user_policy(UserName="operator", PolicyArn=stack.operator_policy_arn)
    assert fruits("destroy", "--yes").splitlines()[-1] == "Removed."
    assert not iam.list_attached_user_policies(UserName="operator")["AttachedPolicies"]
    assert not boto3.client("s3").list_buckets()["Buckets"]
    # Managed policies are not checked: moto's CloudFormation does not delete them.
    roles = [role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"]]
    assert not [name for name in roles if name.startswith("fruits")]
    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default"}
    assert "There is no stack" in fruits("destroy", "--yes", exits=1)


def test_a_failed_destroy_can_be_repeated(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())

    def fail(backend: CloudFormationBackend, name: str) -> None:
        found = backend.stacks[name]
        found._add_stack_event("DELETE_IN_PROGRESS", resource_status_reason="User Initiated")
        add_failure(found, "CoreSecurityGroup", "DELETE_FAILED", "It is in use")
        found.status = "DELETE_FAILED"

    with monkeypatch.context() as patch:
        patch.setattr(CloudFormationBackend, "delete_stack", fail)
        assert "CoreSecurityGroup: It is in use" in fruits("destroy", "--yes", exits=1)
    assert contents(settings(), stack).objects == 0
    with pytest.raises(match="DELETE_FAILED"):
        stack_outputs(settings())
    fruits("destroy", "--yes")
    assert not boto3.client("s3").list_buckets()["Buckets"]


def test_destroy_is_refused_while_a_cluster_uses_the_network(subnet: str) -> None:
    deploy("--subnet", subnet)
    stack = stack_outputs(settings())
    emr = boto3.client("emr")
    cluster = emr.run_job_flow(
        Name="a run",
        Instances={
            "Ec2SubnetId": stack.subnet,
            "KeepJobFlowAliveWhenNoSteps": True,
            "MasterInstanceType": "m5.xlarge",
            "InstanceCount": 1,
        },
        JobFlowRole=stack.instance_profile,
        ServiceRole=stack.service_role,
    )["JobFlowId"]
    before = contents(settings(), stack)
    output = fruits("destroy", "--yes", exits=1)
    assert f"The cluster {cluster} (a run) in this network is" in output
    assert f"--cluster-ids {cluster}" in output
    assert contents(settings(), stack) == before
    emr.terminate_job_flows(JobFlowIds=[cluster])
    fruits("destroy", "--yes")


def test_destroy_is_refused_outside_the_allowed_regions(subnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("--subnet", subnet)
    monkeypatch.setenv("FRUITS_ALLOWED_REGIONS", "eu-west-1")
    assert "FRUITS_REGION=eu-west-3 is not one of eu-west-1" in fruits("destroy", "--yes", exits=1)
    monkeypatch.delenv("FRUITS_ALLOWED_REGIONS")
    assert stack_outputs(settings()).bucket
