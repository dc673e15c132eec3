"""Checks of the regions and the encryption of data, before a run on EMR reads or writes any."""

from typing import Any

from resources.emr.aws import aws_errors_named, client
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri


def check_residency(settings: Settings) -> None:
    """Checks that photos, store and cluster are in the allowed regions, and that the store encrypts.

    S3 encrypts each new object with the key of the bucket's default encryption. So jobs request no encryption
    when they write, which would override the KMS key of a bucket.

    Raises `FruitsError` for the first setting that fails, with its value and the remedy. Does nothing where
    Spark runs on this machine.
    """
    if settings.env == "local":
        return
    with aws_errors_named():
        s3 = client("s3", settings.region)
        _refuse_outside(settings, f"FRUITS_REGION={settings.region}", settings.region)
        images, store = (split_s3_uri(root)[0] for root in (settings.images, settings.store))
        for variable, bucket in (("FRUITS_IMAGES", images), ("FRUITS_STORE", store)):
            # S3 returns None for a bucket in us-east-1, its first region, and EU for old buckets in Ireland.
            found = s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1"
            region = "eu-west-1" if found == "EU" else found
            _refuse_outside(settings, f"the bucket {bucket} of {variable}", region)
        if settings.emr_cluster:
            _check_cluster(settings, settings.emr_cluster)
        _check_encryption(s3, store)


def _refuse_outside(settings: Settings, name: str, region: str) -> None:
    if region not in settings.allowed_regions:
        raise FruitsError(
            f"{name} is in {region}, and photos may not leave {', '.join(settings.allowed_regions)}. "
            "Use a bucket, cluster and region among these, or add the region to FRUITS_ALLOWED_REGIONS."
        )


def _check_cluster(settings: Settings, cluster_id: str) -> None:
    """Reads the region from the cluster's ARN: arn:aws:elasticmapreduce:REGION:ACCOUNT:cluster/ID."""
    from botocore.exceptions import ClientError

    try:
        cluster = client("emr", settings.region).describe_cluster(ClusterId=cluster_id)["Cluster"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("InvalidRequestException", "ValidationException"):
            raise
        raise FruitsError(
            f"FRUITS_EMR_CLUSTER={cluster_id}: there is no such cluster in {settings.region}. Name a "
            "running cluster, or another FRUITS_REGION."
        ) from error
    _refuse_outside(settings, f"the cluster {cluster_id}", cluster["ClusterArn"].split(":")[3])
    state = cluster["Status"]["State"]
    if state.startswith("TERMINAT"):
        raise FruitsError(f"FRUITS_EMR_CLUSTER={cluster_id} is {state}. Name a running cluster.")


def _check_encryption(s3: Any, bucket: str) -> None:
    from botocore.exceptions import ClientError

    try:
        s3.get_bucket_encryption(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        raise FruitsError(
            f"The bucket {bucket} of FRUITS_STORE has no default encryption, so S3 would store results "
            "unencrypted. Set it: aws s3api put-bucket-encryption"
        ) from error
