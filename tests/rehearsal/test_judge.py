"""The judge before moto's S3 and other services, with a user, a role and their policies."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from moto import mock_aws

from rehearsal.judge import Judge
from rehearsal.server import judged_moto, served

REGION, ACCOUNT = "eu-west-3", "123456789012"
BUCKET = "arn:aws:s3:::photos"
Statement = dict[str, Any]


class Judged:
    """A user of an empty account, and clients of the user at a server that judges every call."""

    def __init__(self, judge: Judge, endpoint: str) -> None:
        self.judge, self.endpoint = judge, endpoint
        self.iam = boto3.client("iam")
        self.iam.create_user(UserName="eve")
        created = self.iam.create_access_key(UserName="eve")["AccessKey"]
        self.key = created["AccessKeyId"], created["SecretAccessKey"]

    def allow(self, *actions: str, resource: Any = f"{BUCKET}/*", **more: Any) -> None:
        """Adds a statement to the user's policies."""
        document = policy({"Effect": "Allow", "Action": list(actions), "Resource": resource, **more})
        number = len(self.iam.list_user_policies(UserName="eve")["PolicyNames"])
        self.iam.put_user_policy(UserName="eve", PolicyName=f"policy-{number}", PolicyDocument=document)

    def client(self, service: str, key: tuple[str, ...] = ()) -> Any:
        key_id, secret, *token = key or self.key
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            aws_session_token=next(iter(token), None),
        )

    @property
    def asked(self) -> list[tuple[str, str, bool]]:
        """The actions, ARNs and verdicts of all decisions."""
        return [(each["action"], each["arn"], each["allowed"]) for each in self.judge.decisions()]


def policy(*statements: Statement) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def code(call: Any, **parameters: Any) -> str:
    """The code of the error with which a call fails; empty where it succeeds."""
    try:
        call(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judged]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    judge = judged_moto(judging=True, trusted="rehearsal")
    with mock_aws(), served(judge) as endpoint:
        s3 = boto3.client("s3")
        for bucket in ("photos", "other"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
            s3.put_object(Bucket=bucket, Key="a.jpg", Body=b"photo")
        yield Judged(judge, endpoint)


# S3.


def test_a_missing_object_is_not_found_only_by_a_caller_who_may_list_it(judged: Judged) -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html, "Permissions"
    s3 = judged.client("s3")
    judged.allow("s3:GetObject")
    assert code(s3.get_object, Bucket="photos", Key="a.jpg") == ""
    assert code(s3.get_object, Bucket="photos", Key="b.jpg") == "AccessDenied"
    assert code(s3.head_object, Bucket="photos", Key="b.jpg") == "403"
    judged.allow("s3:ListBucket", resource=BUCKET, Condition={"StringLike": {"s3:prefix": "b*"}})
    assert code(s3.get_object, Bucket="photos", Key="b.jpg") == "NoSuchKey"
    assert code(s3.head_object, Bucket="photos", Key="b.jpg") == "404"
    assert code(s3.head_object, Bucket="photos", Key="c.jpg") == "403"


def test_a_list_is_judged_by_its_prefix(judged: Judged) -> None:
    s3 = judged.client("s3")
    condition = {"StringLike": {"s3:prefix": ["a/*"]}, "StringEquals": {"s3:delimiter": "/"}}
    judged.allow("s3:ListBucket", resource=BUCKET, Condition=condition)
    assert code(s3.list_objects_v2, Bucket="photos", Prefix="a/b", Delimiter="/") == ""
    for parameters in ({"Prefix": "a/b"}, {"Prefix": "ab", "Delimiter": "/"}, {"Delimiter": "/"}, {}):
        assert code(s3.list_objects_v2, Bucket="photos", **parameters) == "AccessDenied"
    assert code(s3.list_object_versions, Bucket="photos", Prefix="a/b", Delimiter="/") == "AccessDenied"
    assert code(s3.head_bucket, Bucket="photos") == "403"


def test_versions_need_permissions_of_their_own(judged: Judged) -> None:
    boto3.client("s3").put_bucket_versioning(Bucket="photos", VersioningConfiguration={"Status": "Enabled"})
    version = boto3.client("s3").put_object(Bucket="photos", Key="a.jpg", Body=b"new")["VersionId"]
    s3, named = judged.client("s3"), {"Bucket": "photos", "Key": "a.jpg", "VersionId": version}
    judged.allow("s3:GetObject", "s3:DeleteObject")
    assert code(s3.get_object, **named) == code(s3.delete_object, **named) == "AccessDenied"
    judged.allow("s3:GetObjectVersion", "s3:DeleteObjectVersion")
    assert code(s3.get_object, **named) == code(s3.delete_object, **named) == ""


def test_each_object_of_a_deletion_is_judged(judged: Judged) -> None:
    # S3 answers with status 200 and an error for each object:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
    for key in ("store/a", "store/b & c", "store/d"):
        boto3.client("s3").put_object(Bucket="photos", Key=key)
    judged.allow("s3:DeleteObject", resource=f"{BUCKET}/store/*")
    s3 = judged.client("s3")
    objects = [
        {"Key": "store/a"},
        {"Key": "a.jpg"},
        {"Key": "store/b & c"},
        {"Key": "store/d", "VersionId": "1"},
    ]
    answer = s3.delete_objects(Bucket="photos", Delete={"Objects": objects})
    assert {each["Key"] for each in answer["Deleted"]} == {"store/a", "store/b & c"}
    assert [(each["Key"], each["Code"]) for each in answer["Errors"]] == [
        ("a.jpg", "AccessDenied"),
        ("store/d", "AccessDenied"),
    ]
    assert judged.asked[-1] == ("s3:DeleteObjectVersion", f"{BUCKET}/store/d", False)
    answer = s3.delete_objects(Bucket="photos", Delete={"Objects": [{"Key": "a.jpg"}]})
    assert [each["Key"] for each in answer["Errors"]] == ["a.jpg"] and "Deleted" not in answer
    left = boto3.client("s3").list_objects_v2(Bucket="photos")["Contents"]
    assert [each["Key"] for each in left] == ["a.jpg", "store/d"]


def test_a_copy_reads_its_source_and_writes_its_target(judged: Judged) -> None:
    s3 = judged.client("s3")
    copy = {"Bucket": "photos", "Key": "b.jpg", "CopySource": {"Bucket": "other", "Key": "a.jpg"}}
    judged.allow("s3:PutObject")
    assert code(s3.copy_object, **copy) == "AccessDenied"
    assert judged.asked[-1] == ("s3:GetObject", "arn:aws:s3:::other/a.jpg", False)
    judged.allow("s3:GetObject", resource="arn:aws:s3:::other/*")
    assert code(s3.copy_object, **copy) == ""


def test_an_upload_in_parts_needs_the_permission_to_write(judged: Judged) -> None:
    s3, named = judged.client("s3"), {"Bucket": "photos", "Key": "large"}
    judged.allow("s3:PutObject")
    upload = {**named, "UploadId": s3.create_multipart_upload(**named)["UploadId"]}
    part = {"PartNumber": 1, "ETag": s3.upload_part(**upload, PartNumber=1, Body=b"1")["ETag"]}
    assert code(s3.list_parts, **upload) == code(s3.abort_multipart_upload, **upload) == "AccessDenied"
    assert [action for action, _, _ in judged.asked[-2:]] == [
        "s3:ListMultipartUploadParts",
        "s3:AbortMultipartUpload",
    ]
    assert code(s3.complete_multipart_upload, **upload, MultipartUpload={"Parts": [part]}) == ""


@pytest.mark.parametrize(
    ("call", "action"),
    [
        ("get_bucket_location", "s3:GetBucketLocation"),
        ("get_bucket_encryption", "s3:GetEncryptionConfiguration"),
        ("get_bucket_replication", "s3:GetReplicationConfiguration"),
        ("get_bucket_versioning", "s3:GetBucketVersioning"),
        ("get_bucket_policy", "s3:GetBucketPolicy"),
        ("get_bucket_lifecycle_configuration", "s3:GetLifecycleConfiguration"),
        ("list_multipart_uploads", "s3:ListBucketMultipartUploads"),
        ("delete_bucket_policy", "s3:DeleteBucketPolicy"),
        ("delete_bucket", "s3:DeleteBucket"),
    ],
)
def test_settings_of_a_bucket_have_actions_of_their_own(judged: Judged, call: str, action: str) -> None:
    s3 = judged.client("s3")
    assert code(getattr(s3, call), Bucket="photos") == "AccessDenied"
    assert judged.asked == [(action, BUCKET, False)]
    judged.allow(action, resource=BUCKET)
    assert code(getattr(s3, call), Bucket="photos") != "AccessDenied"


def test_the_policy_of_a_bucket_can_deny_and_can_allow(judged: Judged) -> None:
    def decided_by(*statements: Statement) -> str:
        boto3.client("s3").put_bucket_policy(Bucket="photos", Policy=policy(*statements))
        result = code(s3.get_object, Bucket="photos", Key="a.jpg")
        return f"{result} {judged.judge.decisions()[-1]['statement']}".strip()

    s3 = judged.client("s3")
    read = {"Sid": "Read", "Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/*"}
    user = f"arn:aws:iam::{ACCOUNT}:user/eve"
    assert decided_by({**read, "Principal": {"AWS": user}}) == "the bucket's policy/Read"
    assert decided_by({**read, "Principal": {"AWS": f"{user}2"}}) == "AccessDenied"
    judged.allow("s3:GetObject", Sid="Own")
    deny = {**read, "Sid": "Deny", "Effect": "Deny", "Principal": "*"}
    outside = {**deny, "Condition": {"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}}
    assert decided_by(outside) == "AccessDenied the bucket's policy/Deny"
    # The judge takes each call as one by TLS.
    plain = {**deny, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    assert decided_by(plain) == "eve:policy-0/Own"


# Callers.


def test_a_user_has_the_policies_of_groups_and_attached_policies(judged: Judged) -> None:
    s3 = judged.client("s3")
    judged.iam.create_group(GroupName="readers")
    judged.iam.add_user_to_group(GroupName="readers", UserName="eve")
    read = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/*"}
    judged.iam.put_group_policy(GroupName="readers", PolicyName="read", PolicyDocument=policy(read))
    assert code(s3.get_object, Bucket="photos", Key="a.jpg") == ""
    assert judged.judge.decisions()[-1]["statement"] == "readers:read/1"
    deny = policy({**read, "Sid": "No", "Effect": "Deny"})
    arn = judged.iam.create_policy(PolicyName="deny", PolicyDocument=deny)["Policy"]["Arn"]
    judged.iam.attach_user_policy(UserName="eve", PolicyArn=arn)
    assert code(s3.get_object, Bucket="photos", Key="a.jpg") == "AccessDenied"
    assert judged.judge.decisions()[-1]["statement"] == "deny/No"


def test_the_session_of_a_role_has_the_policies_of_the_role(judged: Judged) -> None:
    trust = policy({"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"})
    role = judged.iam.create_role(RoleName="nodes", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    session = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="j-1")["Credentials"]
    key = session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]
    s3 = judged.client("s3", key)
    assert code(s3.get_object, Bucket="photos", Key="a.jpg") == "AccessDenied"
    read = policy({"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/*"})
    judged.iam.put_role_policy(RoleName="nodes", PolicyName="read", PolicyDocument=read)
    assert code(s3.get_object, Bucket="photos", Key="a.jpg") == ""
    decision = judged.judge.decisions()[-1]
    assert decision["principal"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/nodes/j-1"
    assert decision["context"]["aws:PrincipalArn"] == role


def test_the_caller_is_told_about_itself_without_a_permission(judged: Judged) -> None:
    # https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
    assert judged.client("sts").get_caller_identity()["Arn"].endswith(":user/eve")
    assert judged.judge.decisions() == []


def test_a_call_without_a_known_key_is_refused_and_the_trusted_key_is_not_judged(judged: Judged) -> None:
    unknown = judged.client("s3", ("AKIAUNKNOWN", "secret"))
    assert code(unknown.get_object, Bucket="photos", Key="a.jpg") == "InvalidAccessKeyId"
    assert code(judged.client("sns", ("AKIAUNKNOWN", "secret")).list_topics) == "InvalidClientTokenId"
    anonymous = boto3.client("s3", endpoint_url=judged.endpoint, config=Config(signature_version=UNSIGNED))
    assert code(anonymous.get_object, Bucket="photos", Key="a.jpg") == "AccessDenied"
    trusted = judged.client("s3", ("rehearsal", "secret"))
    assert code(trusted.get_object, Bucket="photos", Key="a.jpg") == ""
    assert judged.judge.decisions() == []


# Other services.


@pytest.mark.parametrize(
    ("service", "call", "parameters"),
    [
        ("sqs", "list_queues", {}),
        ("dynamodb", "list_tables", {}),
        ("iam", "get_user", {}),
        ("iam", "create_policy", {"PolicyName": "all", "PolicyDocument": "{}"}),
        ("s3", "get_bucket_cors", {"Bucket": "photos"}),
        ("s3", "get_object_torrent", {"Bucket": "photos", "Key": "a.jpg"}),
        ("emr", "list_studios", {}),
    ],
)
def test_a_call_that_the_judge_does_not_know_is_refused_by_name(
    judged: Judged, service: str, call: str, parameters: dict[str, str]
) -> None:
    judged.allow("*", resource="*")
    with pytest.raises(ClientError, match=r"refuses what it cannot judge: rehearsal/.*does not know which"):
        getattr(judged.client(service), call)(**parameters)
    [decision] = judged.judge.decisions()
    assert not decision["allowed"] and decision["service"] == service.replace("emr", "elasticmapreduce")


@pytest.mark.parametrize(
    ("service", "call", "parameters", "error", "arn"),
    [
        ("ec2", "describe_subnets", {}, "UnauthorizedOperation", "*"),
        (
            "ec2",
            "revoke_security_group_ingress",
            {"GroupId": "sg-1"},
            "UnauthorizedOperation",
            f"arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/sg-1",
        ),
        ("iam", "list_roles", {}, "AccessDenied", f"arn:aws:iam::{ACCOUNT}:role/"),
        ("iam", "get_role", {"RoleName": "a"}, "AccessDenied", f"arn:aws:iam::{ACCOUNT}:role/a"),
        (
            "iam",
            "create_service_linked_role",
            {"AWSServiceName": "spot.amazonaws.com"},
            "AccessDenied",
            f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot",
        ),
        (
            "sns",
            "publish",
            {"TopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:alerts", "Message": "x"},
            "AccessDenied",
            f"arn:aws:sns:{REGION}:{ACCOUNT}:alerts",
        ),
        (
            "service-quotas",
            "get_service_quota",
            {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"},
            "AccessDeniedException",
            f"arn:aws:servicequotas:{REGION}:{ACCOUNT}:ec2/L-1216C47A",
        ),
    ],
)
def test_each_service_refuses_with_its_own_code(
    judged: Judged, service: str, call: str, parameters: dict[str, str], error: str, arn: str
) -> None:
    assert code(getattr(judged.client(service), call), **parameters) == error
    assert [(where, allowed) for _, where, allowed in judged.asked] == [(arn, False)]
