"""Where data is: what a run on EMR checks before it reads or writes any."""

from typing import Any

from resources.emr.aws import aws_errors_named, client
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri


def check_residency(settings: Settings) -> None:
    """Checks that photos, store and cluster are in the allowed regions, and that the store encrypts.

    S3 encrypts every object that is written to a bucket with a default encryption, by the key of that
    default; so no writer asks for an encryption of its own, which would override a bucket's KMS key.

    Raises `FruitsError`, with the place and what to do, for the first that is not so. Does nothing where
    Spark runs on this machine.
    """
    if settings.env == "local":
        return
    with aws_errors_named():
        s3 = client("s3", settings.region)
        _refuse_outside(settings, f"FRUITS_REGION={settings.region}", settings.region)
        images, store = (split_s3_uri(root)[0] for root in (settings.images, settings.store))
        for variable, bucket in (("FRUITS_IMAGES", images), ("FRUITS_STORE", store)):
            # The location of a bucket in us-east-1 is None: the API is older than the other regions.
            found = s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1"
            region = "eu-west-1" if found == "EU" else found
            _refuse_outside(settings, f"the bucket {bucket} of {variable}", region)
        if settings.emr_cluster:
            _check_cluster(settings, settings.emr_cluster)
        _check_encryption(s3, store)


def _refuse_outside(settings: Settings, place: str, region: str) -> None:
    if region not in settings.allowed_regions:
        raise FruitsError(
            f"{place} is in {region}, and photos may not leave {', '.join(settings.allowed_regions)}. "
            "Use a place in one of these, or name the region in FRUITS_ALLOWED_REGIONS."
        )


def _check_cluster(settings: Settings, cluster_id: str) -> None:
    """The region is in the cluster's own name: arn:aws:elasticmapreduce:REGION:ACCOUNT:cluster/ID."""
    from botocore.exceptions import ClientError

    try:
        cluster = client("emr", settings.region).describe_cluster(ClusterId=cluster_id)["Cluster"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("InvalidRequestException", "ValidationException"):
            raise
        raise FruitsError(
            f"FRUITS_EMR_CLUSTER={cluster_id}: there is no such cluster in {settings.region}. Name one that "
            "runs, or another FRUITS_REGION."
        ) from error
    _refuse_outside(settings, f"the cluster {cluster_id}", cluster["ClusterArn"].split(":")[3])
    state = cluster["Status"]["State"]
    if state.startswith("TERMINAT"):
        raise FruitsError(f"FRUITS_EMR_CLUSTER={cluster_id} is {state}. Name a cluster that runs.")


def _check_encryption(s3: Any, bucket: str) -> None:
    from botocore.exceptions import ClientError

    try:
        s3.get_bucket_encryption(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        raise FruitsError(
            f"The bucket {bucket} of FRUITS_STORE has no default encryption, so what is written would lie "
            "open. Set one: aws s3api put-bucket-encryption"
        ) from error
