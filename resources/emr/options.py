"""The options of `fruits emr deploy`, and the parameters of the stack's template that follow from them."""

import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

from resources.emr.aws import client
from resources.emr.residency import check_photos_bucket
from resources.emr.stack import EMR_TAG
from resources.settings import AccountSettings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import split_s3_uri

# The template's pattern of a prefix, which leaves out the signs that policies read as wildcards.
_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./=-]*[A-Za-z0-9_]")
_YES_NO = {True: "yes", False: "no", None: None}
_OWN_PHOTOS = {"PhotosBucket": "", "PhotosBucketPrefix": "", "PhotosKey": ""}


class Deployment(NamedTuple):
    """The options of a deployment. None keeps the value of the stack, or the template's default.

    `photos` is s3://bucket/prefix of photos that exist already; "" returns to the bucket of the stack. S3
    deletes photos in that bucket after `retention_days`; 0 keeps them. `subnet` is an existing private
    subnet, used instead of a new one in `zone`. `instance_types` are patterns, separated by commas, of the
    types that EMR may start. `budget_usd` is the limit of a month, at which AWS sends an alarm to
    `budget_email`; 0 is no alarm.
    """

    photos: str | None = None
    photos_prefix: str | None = None
    store_prefix: str | None = None
    retention_days: int | None = None
    subnet: str | None = None
    zone: str | None = None
    session_manager: bool | None = None
    wheelhouse: bool | None = None
    encrypt_disks: bool | None = None
    instance_types: str | None = None
    budget_usd: int | None = None
    budget_email: str | None = None


class Resolved(NamedTuple):
    """The parameters of the template, and sentences that the user reads before the question."""

    parameters: dict[str, str]
    notes: tuple[str, ...]


def resolve(
    settings: AccountSettings,
    wanted: Deployment,
    defaults: Mapping[str, str],
    before: Mapping[str, str],
    bucket: str | None,
) -> Resolved:
    """The template's parameters: the wanted values, else those `before` in the stack, else the defaults.

    `bucket` is the bucket of the present stack. Raises `FruitsError` for options that contradict each other,
    for prefixes inside each other, for another prefix while the old one holds objects, and for a subnet, a
    zone or a bucket of photos that clusters could not use.
    """
    photos, notes = _photos(settings, wanted.photos, bucket)
    asked = {
        "PhotosPrefix": wanted.photos_prefix,
        "StorePrefix": wanted.store_prefix,
        "RetentionDays": wanted.retention_days,
        "SubnetId": wanted.subnet,
        "VpcId": wanted.subnet and _vpc_of(settings, wanted.subnet),
        "Zone": wanted.zone,
        "SessionManager": _YES_NO[wanted.session_manager],
        "Wheelhouse": _YES_NO[wanted.wheelhouse],
        "S3PrefixList": _addresses_of_s3(settings),
        "EncryptDisks": _YES_NO[wanted.encrypt_disks],
        "InstanceTypes": wanted.instance_types,
        "BudgetUsd": wanted.budget_usd,
        "BudgetEmail": wanted.budget_email,
    }
    given = {**before, **{name: str(value) for name, value in asked.items() if value is not None}, **photos}
    parameters = {name: given.get(name, default) for name, default in defaults.items()}
    _check_prefixes(parameters["PhotosPrefix"], parameters["StorePrefix"])
    _check_retention(parameters)
    _check_budget(wanted, parameters)
    if wanted.zone:
        _check_zone(settings, wanted.zone, parameters, before)
    if bucket:
        _check_moves(settings, bucket, before, parameters)
    return Resolved(parameters, notes)


def _photos(
    settings: AccountSettings, uri: str | None, own_bucket: str | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    if not uri:
        return ({} if uri is None else _OWN_PHOTOS), ()
    bucket, prefix = split_s3_uri(uri.rstrip("/"))
    if not uri.startswith("s3://") or not _PREFIX.fullmatch(prefix):
        raise FruitsError(
            f"--photos {uri} is not of the form s3://bucket/prefix, with letters, digits and _ . / = - in "
            "the prefix. Clusters may read exactly one prefix: name the folder that holds one folder a class."
        )
    if bucket == own_bucket:
        raise FruitsError(
            f"--photos {uri} is in the bucket of the stack itself. Use --photos-prefix {prefix} instead, "
            'with --photos "" if the photos are in another bucket now.'
        )
    checked = check_photos_bucket(settings, bucket, prefix)
    parameters = {"PhotosBucket": bucket, "PhotosBucketPrefix": prefix, "PhotosKey": checked.key}
    return parameters, checked.notes


def _addresses_of_s3(settings: AccountSettings) -> str | None:
    """The id of AWS's list of the addresses of S3 in the region; None where AWS has none."""
    name = f"com.amazonaws.{settings.region}.s3"
    filters = [{"Name": "prefix-list-name", "Values": [name]}]
    found = client("ec2", settings.region).describe_managed_prefix_lists(Filters=filters)["PrefixLists"]
    return next((str(each["PrefixListId"]) for each in found), None)


def _check_prefixes(photos: str, store: str) -> None:
    """Raises `FruitsError` where one prefix contains another, because each has different permissions."""
    for first, second in combinations((photos, store, "logs", "bootstrap"), 2):
        if f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/"):
            raise FruitsError(
                f"The prefixes {first} and {second} lie inside each other, but have different permissions. "
                "Choose --photos-prefix and --store-prefix apart from each other and from logs and bootstrap."
            )


def _check_retention(parameters: Mapping[str, str]) -> None:
    if parameters["PhotosBucket"] and parameters["RetentionDays"] != "0":
        raise FruitsError(
            f"--retention-days {parameters['RetentionDays']} deletes photos in the bucket of the stack, but "
            f"the photos are in s3://{parameters['PhotosBucket']}, which this project never changes. Set "
            "--retention-days 0, and give that bucket a lifecycle rule of its own."
        )


def _check_budget(wanted: Deployment, parameters: Mapping[str, str]) -> None:
    if parameters["BudgetUsd"] != "0" and not parameters["BudgetEmail"]:
        raise FruitsError(
            f"--budget-usd {parameters['BudgetUsd']} has nobody to send the alarm to: add --budget-email."
        )
    if wanted.budget_email and parameters["BudgetUsd"] == "0":
        raise FruitsError(f"--budget-email {wanted.budget_email} needs --budget-usd, the limit of a month.")


def _check_zone(
    settings: AccountSettings, zone: str, parameters: Mapping[str, str], before: Mapping[str, str]
) -> None:
    if parameters["SubnetId"]:
        raise FruitsError(
            f"--zone {zone} is the zone of a new subnet, but the stack uses {parameters['SubnetId']}, which "
            "has a zone already. Leave --zone out."
        )
    if before and not before["VpcId"] and before.get("Zone", "") != zone:
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-ec2-subnet.html:
        # another zone replaces the subnet, and two subnets of a VPC cannot have one range of addresses.
        raise FruitsError(
            f"--zone {zone}: the subnet of the stack {settings.emr_stack} is in another zone, and a subnet "
            "cannot move. Deploy a stack of another name in FRUITS_EMR_STACK there."
        )
    zones = client("ec2", settings.region).describe_availability_zones()["AvailabilityZones"]
    names = [found["ZoneName"] for found in zones]
    if zone not in names:
        raise FruitsError(f"--zone {zone} is not a zone of {settings.region}. Choose {' or '.join(names)}.")


def _check_moves(
    settings: AccountSettings, bucket: str, before: Mapping[str, str], parameters: Mapping[str, str]
) -> None:
    """Raises `FruitsError` where a prefix changes that holds objects: no rule would reach them any more."""
    s3 = client("s3", settings.region)
    for name, option in (("PhotosPrefix", "--photos-prefix"), ("StorePrefix", "--store-prefix")):
        old, new = before[name], parameters[name]
        if old != new and _holds_objects(s3, bucket, old):
            raise FruitsError(
                f"{option} {new}: s3://{bucket}/{old} still holds objects. Retention, erasure and the "
                "permissions of clusters would no longer reach them. Move them first: `aws s3 mv --recursive "
                f"s3://{bucket}/{old} s3://{bucket}/{new}`."
            )


def _holds_objects(s3: Any, bucket: str, prefix: str) -> bool:
    return bool(s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/", MaxKeys=1).get("Contents"))


def _vpc_of(settings: AccountSettings, subnet: str) -> str:
    """The VPC of a subnet. Raises `FruitsError` where the subnet lacks EMR's tag."""
    [found] = client("ec2", settings.region).describe_subnets(SubnetIds=[subnet])["Subnets"]
    [(key, value)] = EMR_TAG.items()
    if {"Key": key, "Value": value} not in found.get("Tags", []):
        raise FruitsError(
            f"The subnet {subnet} lacks the tag without which EMR may not use it. Add it with `aws ec2 "
            f"create-tags --region {settings.region} --resources {subnet} --tags Key={key},Value={value}`."
        )
    return str(found["VpcId"])
