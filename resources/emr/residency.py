"""Checks of the places of data: regions, encryption and owners of buckets, and the region of a cluster."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from resources.emr.aws import aws_errors_named, client
from resources.s3_server import check_server, is_of_aws
from resources.settings import AccountSettings, Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import concurrently, s3_endpoint, split_s3_uri

# The calls of nodes, of operators and of `check_photos_bucket` on a bucket of photos.
_PHOTOS_ACTIONS = (
    "s3:ListBucket",
    "s3:GetObject",
    "s3:GetBucketLocation",
    "s3:GetEncryptionConfiguration",
    "s3:GetReplicationConfiguration",
)


class PhotosBucket(NamedTuple):
    """What a deployment needs to know of a bucket of photos.

    `key` is the ARN of the KMS key of its default encryption, "" where no permission on a key is needed.
    `notes` are sentences for the user.
    """

    key: str
    notes: tuple[str, ...]


# The permission for each question about a bucket.
_PERMISSIONS = {
    "GetBucketLocation": "s3:GetBucketLocation",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "GetBucketReplication": "s3:GetReplicationConfiguration",
}
_DENIED = ("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "403")

# What this process has checked: a run checks when its command starts and when its assets start.
_passed: set[tuple[object, ...]] = set()


def check_residency(settings: Settings) -> None:
    """Checks each place on S3 where a run reads photos or writes: the server, the buckets and the cluster.

    Buckets are in allowed regions, are replicated to allowed regions only, encrypt by default, and belong to
    the expected account. S3 encrypts each new object with the key of the bucket's default encryption. So jobs
    request no encryption when they write, which would override the KMS key of a bucket. The region of a
    cluster and of its log bucket is allowed too.

    Raises `FruitsError` for the first setting that fails, with its value and the remedy, also where AWS does
    not answer a question. A server on this machine, or of FRUITS_ALLOW_ENDPOINT, has no region of AWS: with
    FRUITS_ENV=local, its buckets are not asked.
    """
    check_server(settings.allowed_regions, settings.allow_endpoint)
    roots = {"FRUITS_IMAGES": settings.images, "FRUITS_STORE": settings.store}
    accounts = {"FRUITS_IMAGES": settings.images_account, "FRUITS_STORE": settings.store_account}
    buckets = {
        variable: (split_s3_uri(root)[0], accounts[variable])
        for variable, root in roots.items()
        if root.startswith("s3://")
    }
    if settings.env == "local" and (not buckets or not is_of_aws(s3_endpoint())):
        return
    with aws_errors_named():
        if settings.env == "emr":
            refuse_outside(settings, f"FRUITS_REGION={settings.region}", settings.region)
        key = (s3_endpoint(), settings.region, *settings.allowed_regions, *buckets.items())
        if key not in _passed:
            _check_buckets(settings, buckets)
            _passed.add(key)
        if settings.env == "emr" and settings.emr_cluster:
            check_cluster(settings, settings.emr_cluster)


def _check_buckets(settings: Settings, buckets: Mapping[str, tuple[str, str | None]]) -> None:
    """Checks the bucket of each variable, all at once; beside each bucket is the account that must own it."""
    s3 = client("s3", settings.region)
    own = "" if all(account for _, account in buckets.values()) else caller_account(settings)
    distinct: dict[tuple[str, str], BucketQuestions] = {}
    for variable, (bucket, account) in buckets.items():
        owner = account or own
        distinct.setdefault((bucket, owner), BucketQuestions(settings, s3, bucket, variable, owner))
    questions = [(each.region, each.encryption, each.replication) for each in distinct.values()]
    concurrently(lambda question: question(), chain(*questions))


def caller_account(settings: AccountSettings) -> str:
    """The account of the credentials; the call needs no permission."""
    return str(client("sts", settings.region).get_caller_identity()["Account"])


@dataclass(frozen=True)
class BucketQuestions:
    """Questions about the bucket of a variable, which the account `owner` must own.

    Each raises `FruitsError` where the answer is not permitted or AWS denies the question.
    """

    settings: AccountSettings
    s3: Any
    bucket: str
    variable: str
    owner: str

    def region(self) -> str:
        """The region of the bucket."""
        with self._denials_named():
            region = bucket_region(self.s3, self.bucket, self.owner)
        refuse_outside(self.settings, f"the bucket {self.bucket} of {self.variable}", region)
        return region

    def encryption(self) -> dict[str, Any]:
        """The default encryption of the bucket."""
        with self._denials_named():
            return default_encryption(self.s3, self.bucket, self.variable, self.owner)

    def replication(self) -> None:
        """Asks for the buckets to which the bucket is replicated."""
        with self._denials_named():
            _check_replication(self.settings, self.s3, self.bucket, self.variable, self.owner)

    @contextmanager
    def _denials_named(self) -> Iterator[None]:
        from botocore.exceptions import ClientError

        try:
            yield
        except ClientError as error:
            if error.response["Error"]["Code"] not in _DENIED:
                raise
            name = f"The bucket {self.bucket} of {self.variable}"
            if not _owned(self.s3, self.bucket, self.owner):
                raise FruitsError(
                    f"{name} does not belong to the account {self.owner}. Check its name. If it is right, "
                    f"set {self.variable}_ACCOUNT to the account of its owner."
                ) from error
            raise FruitsError(
                f"{name}: AWS denies {error.operation_name}, so it is not known whether data would leave the "
                f"allowed regions. Allow {_PERMISSIONS[error.operation_name]} on the bucket. `fruits emr "
                "deploy` updates the operator's policy."
            ) from error


def check_photos_bucket(settings: AccountSettings, bucket: str, prefix: str) -> PhotosBucket:
    """Checks that clusters in `settings.region` may read the photos in an existing bucket.

    Raises `FruitsError` where the bucket or its photos do not exist, where it is in another region or copies
    photos out of the allowed regions, where it does not encrypt by default, and where it cannot be read.
    """
    from botocore.exceptions import ClientError

    s3 = client("s3", settings.region)
    name = f"the bucket {bucket} of --photos"
    account = caller_account(settings)
    try:
        region = bucket_region(s3, bucket)
        refuse_outside(settings, name, region)
        if region != settings.region:
            # "VPC endpoints don't support cross-Region requests":
            # https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
            raise FruitsError(
                f"{name} is in {region}, and the private subnet of clusters reaches S3 in FRUITS_REGION="
                f"{settings.region} only. Copy the photos into a bucket there, or set FRUITS_REGION={region}."
            )
        encryption = default_encryption(s3, bucket, "--photos")
        _check_replication(settings, s3, bucket, "--photos")
        if not s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/", MaxKeys=1).get("Contents"):
            raise FruitsError(
                f"There are no photos in s3://{bucket}/{prefix}. Check the name, or upload them."
            )
        key = _customer_key(settings, encryption)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchBucket", "404"):
            raise FruitsError(f"--photos: there is no bucket {bucket}. Check its name.") from error
        if code not in _DENIED:
            raise
        raise FruitsError(
            f"{name} may not be read ({error.operation_name}: {code}). If it belongs to another account, its "
            f"owner must allow {', '.join(_PHOTOS_ACTIONS)} to arn:aws:iam::{account}:root in the policy of "
            "the bucket, and kms:Decrypt and kms:DescribeKey in the policy of its KMS key if it has one."
        ) from error
    return PhotosBucket(key, () if _owned(s3, bucket, account) else (_foreign(bucket, account),))


def _foreign(bucket: str, account: str) -> str:
    return (
        f"The bucket {bucket} does not belong to this account ({account}). Its owner must allow the account "
        f"to read it: {', '.join(_PHOTOS_ACTIONS)}. Set FRUITS_IMAGES_ACCOUNT to the owner's account."
    )


def _owned(s3: Any, bucket: str, account: str) -> bool:
    """Whether a bucket belongs to the account, as far as AWS says it: S3 answers 403 where it does not.

    A bucket that may not be asked at all counts as owned.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """
    return _may_ask(s3, bucket, account) or not _may_ask(s3, bucket)


def _may_ask(s3: Any, bucket: str, owner: str = "") -> bool:
    from botocore.exceptions import ClientError

    try:
        s3.get_bucket_location(Bucket=bucket, **_owned_by(owner))
    except ClientError as error:
        if error.response["Error"]["Code"] not in _DENIED:
            raise
        return False
    return True


def _owned_by(owner: str) -> dict[str, str]:
    """The condition of a request that the bucket belongs to an account; none for ""."""
    return {"ExpectedBucketOwner": owner} if owner else {}


def bucket_region(s3: Any, bucket: str, owner: str = "") -> str:
    """The region of a bucket. Raises the error of AWS where it may not be asked, or has another owner."""
    # S3 returns None for a bucket in us-east-1, its first region, and EU for old buckets in Ireland.
    found = s3.get_bucket_location(Bucket=bucket, **_owned_by(owner))["LocationConstraint"] or "us-east-1"
    return "eu-west-1" if found == "EU" else str(found)


def _region_of_any(s3: Any, bucket: str, name: str) -> str:
    """The region of a bucket that the caller may have no permission on: S3 says it also when it refuses.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html, and the same request in AWS's SDK:
    https://docs.aws.amazon.com/sdk-for-go/api/service/s3/s3manager/#GetBucketRegion

    Raises `FruitsError` where S3 says none.
    """
    from botocore.exceptions import ClientError

    try:
        answer = s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
    if region := headers.get("x-amz-bucket-region"):
        return str(region)
    raise FruitsError(
        f"The region of {name} is not known, because S3 does not tell it. Check the bucket's name."
    )


def refuse_outside(settings: AccountSettings, name: str, region: str) -> None:
    """Raises `FruitsError` where `name` is in a region that is not among FRUITS_ALLOWED_REGIONS."""
    if region not in settings.allowed_regions:
        raise FruitsError(
            f"{name} is in {region}, and photos may not leave {', '.join(settings.allowed_regions)}. "
            "Use a bucket, cluster and region among these, or add the region to FRUITS_ALLOWED_REGIONS."
        )


def check_cluster(settings: Settings, cluster_id: str) -> dict[str, Any]:
    """EMR's description of a cluster that runs in an allowed region.

    Raises `FruitsError` for any other cluster. The region is part of its ARN:
    arn:aws:elasticmapreduce:REGION:ACCOUNT:cluster/ID.
    """
    from botocore.exceptions import ClientError

    try:
        emr = client("emr", settings.region)
        cluster: dict[str, Any] = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    except ClientError as error:
        # Operators may call it for clusters with the tag only, and an unknown cluster has none:
        # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticmapreduce.html
        refusals = ("InvalidRequestException", "ValidationException", "AccessDeniedException")
        if error.response["Error"]["Code"] not in refusals:
            raise
        raise FruitsError(
            f"FRUITS_EMR_CLUSTER={cluster_id}: there is no such cluster in {settings.region}, or it lacks "
            "the tag project=fruits. Name a running cluster with the tag, or another FRUITS_REGION."
        ) from error
    refuse_outside(settings, f"the cluster {cluster_id}", cluster["ClusterArn"].split(":")[3])
    if logs := cluster.get("LogUri"):
        name = f"the bucket of the logs of the cluster {cluster_id}, {logs},"
        # EMR writes s3:// as s3n://.
        bucket = split_s3_uri(f"s3://{logs.partition('://')[2]}")[0]
        refuse_outside(settings, name, _region_of_any(client("s3", settings.region), bucket, name))
    state = cluster["Status"]["State"]
    if state.startswith("TERMINAT"):
        raise FruitsError(f"FRUITS_EMR_CLUSTER={cluster_id} is {state}. Name a running cluster.")
    return cluster


def default_encryption(s3: Any, bucket: str, name: str, owner: str = "") -> dict[str, Any]:
    """The default encryption of a bucket: `SSEAlgorithm`, and `KMSMasterKeyID` where it names a key.

    Raises `FruitsError` for a bucket that encrypts nothing by default; `name` says whose bucket it is.
    """
    from botocore.exceptions import ClientError

    try:
        answer = s3.get_bucket_encryption(Bucket=bucket, **_owned_by(owner))
    except ClientError as error:
        if error.response["Error"]["Code"] != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        raise FruitsError(
            f"The bucket {bucket} of {name} has no default encryption, so S3 would store photos and results "
            "unencrypted. Set it: aws s3api put-bucket-encryption"
        ) from error
    rules = answer["ServerSideEncryptionConfiguration"]["Rules"]
    return next((rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in rules), {})


def _customer_key(settings: AccountSettings, encryption: dict[str, Any]) -> str:
    """The ARN of the key for which readers need `kms:Decrypt`; "" for S3's own key and for AWS's managed key.

    The policy of AWS's managed key aws/s3 admits all readers of its account that come through S3:
    https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#aws-managed-cmk
    """
    name = encryption.get("KMSMasterKeyID")
    if not name:
        return ""
    key = client("kms", settings.region).describe_key(KeyId=name)["KeyMetadata"]
    return "" if key.get("KeyManager") == "AWS" else str(key["Arn"])


def _check_replication(
    settings: AccountSettings, s3: Any, bucket: str, variable: str, owner: str = ""
) -> None:
    """Raises `FruitsError` where a bucket copies its objects out of the allowed regions."""
    from botocore.exceptions import ClientError

    try:
        answer = s3.get_bucket_replication(Bucket=bucket, **_owned_by(owner))
    except ClientError as error:
        if error.response["Error"]["Code"] != "ReplicationConfigurationNotFoundError":
            raise
        return
    for rule in answer["ReplicationConfiguration"]["Rules"]:
        if rule["Status"] == "Enabled":
            target = rule["Destination"]["Bucket"].split(":")[-1]
            name = f"the bucket {target}, to which {bucket} of {variable} is replicated,"
            refuse_outside(settings, name, _region_of_any(s3, target, name))
