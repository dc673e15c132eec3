"""Checks of the places of data: regions, encryption and owners of buckets, and the region of a cluster."""

from typing import Any, NamedTuple

from resources.emr.aws import aws_errors_named, client
from resources.settings import AccountSettings, Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri

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


def check_residency(settings: Settings) -> None:
    """Checks that photos, store and cluster are in the allowed regions, and that both buckets encrypt.

    S3 encrypts each new object with the key of the bucket's default encryption. So jobs request no encryption
    when they write, which would override the KMS key of a bucket.

    Raises `FruitsError` for the first setting that fails, with its value and the remedy. Does nothing where
    Spark runs on this machine.
    """
    if settings.env == "local":
        return
    with aws_errors_named():
        s3 = client("s3", settings.region)
        refuse_outside(settings, f"FRUITS_REGION={settings.region}", settings.region)
        images, store = (split_s3_uri(root)[0] for root in (settings.images, settings.store))
        buckets = {"FRUITS_IMAGES": images, "FRUITS_STORE": store}
        for variable, bucket in buckets.items():
            refuse_outside(settings, f"the bucket {bucket} of {variable}", bucket_region(s3, bucket))
        if settings.emr_cluster:
            check_cluster(settings, settings.emr_cluster)
        for variable, bucket in buckets.items():
            default_encryption(s3, bucket, variable)


def check_photos_bucket(settings: AccountSettings, bucket: str, prefix: str) -> PhotosBucket:
    """Checks that clusters in `settings.region` may read the photos in an existing bucket.

    Raises `FruitsError` where the bucket or its photos do not exist, where it is in another region or copies
    photos out of the allowed regions, where it does not encrypt by default, and where it cannot be read.
    """
    from botocore.exceptions import ClientError

    s3 = client("s3", settings.region)
    name = f"the bucket {bucket} of --photos"
    account = client("sts", settings.region).get_caller_identity()["Account"]
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
        _check_replication(settings, s3, bucket)
        if not s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/", MaxKeys=1).get("Contents"):
            raise FruitsError(
                f"There are no photos in s3://{bucket}/{prefix}. Check the name, or upload them."
            )
        key = _customer_key(settings, encryption)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchBucket", "404"):
            raise FruitsError(f"--photos: there is no bucket {bucket}. Check its name.") from error
        if code not in ("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "403"):
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
        f"to read it: {', '.join(_PHOTOS_ACTIONS)}."
    )


def _owned(s3: Any, bucket: str, account: str) -> bool:
    """Whether a bucket that can be read belongs to the account: S3 answers 403 where it does not.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """
    from botocore.exceptions import ClientError

    try:
        s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("403", "AccessDenied"):
            raise
        return False
    return True


def bucket_region(s3: Any, bucket: str) -> str:
    """The region of a bucket. Raises the error of AWS where it may not be asked."""
    # S3 returns None for a bucket in us-east-1, its first region, and EU for old buckets in Ireland.
    found = s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1"
    return "eu-west-1" if found == "EU" else str(found)


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
    state = cluster["Status"]["State"]
    if state.startswith("TERMINAT"):
        raise FruitsError(f"FRUITS_EMR_CLUSTER={cluster_id} is {state}. Name a running cluster.")
    return cluster


def default_encryption(s3: Any, bucket: str, name: str) -> dict[str, Any]:
    """The default encryption of a bucket: `SSEAlgorithm`, and `KMSMasterKeyID` where it names a key.

    Raises `FruitsError` for a bucket that encrypts nothing by default; `name` says whose bucket it is.
    """
    from botocore.exceptions import ClientError

    try:
        rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        raise FruitsError(
            f"The bucket {bucket} of {name} has no default encryption, so S3 would store photos and results "
            "unencrypted. Set it: aws s3api put-bucket-encryption"
        ) from error
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


def _check_replication(settings: AccountSettings, s3: Any, bucket: str) -> None:
    """Raises `FruitsError` where a bucket of photos copies them out of the allowed regions."""
    from botocore.exceptions import ClientError

    try:
        rules = s3.get_bucket_replication(Bucket=bucket)["ReplicationConfiguration"]["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ReplicationConfigurationNotFoundError":
            raise
        return
    for rule in rules:
        if rule["Status"] == "Enabled":
            target = rule["Destination"]["Bucket"].split(":")[-1]
            name = f"the bucket {target}, to which {bucket} of --photos is replicated,"
            refuse_outside(settings, name, bucket_region(s3, target))
