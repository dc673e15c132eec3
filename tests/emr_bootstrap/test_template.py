"""Properties of the template that moto's CloudFormation ignores."""

from typing import Any

from cfnlint.decode.cfn_yaml import load

from fruits_assets.costs.run_records import RUN_RECORDS
from resources.emr.account import TEMPLATE
from resources.emr.stack import EMR_TAG
from resources.spark_events import EVENT_LOGS, KEEP_DAYS
from spark_jobs.store.schemas import (
    ENVIRONMENT_COMPARISON,
    FEATURE_EXTRACTOR,
    FEATURE_QUALITY,
    MOBILENET_FEATURES,
    PCA_FEATURES_CSV,
    PCA_MODEL,
    QUARANTINED_IMAGES,
    RAW_IMAGES,
    VERSION_FOLDERS,
)


def test_security_groups_and_subnet_have_emrs_tag() -> None:
    resources = load(str(TEMPLATE))["Resources"]
    [(key, value)] = EMR_TAG.items()
    for name in ("Vpc", "PrivateSubnet", "PrimarySecurityGroup", "CoreSecurityGroup", "ServiceSecurityGroup"):
        assert {"Key": key, "Value": value} in resources[name]["Properties"]["Tags"], name


def _bucket() -> dict[str, Any]:
    return load(str(TEMPLATE))["Resources"]["Bucket"]["Properties"]


def test_the_bucket_is_private_encrypted_and_keeps_versions() -> None:
    bucket = _bucket()
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}


def test_objects_in_the_bucket_expire() -> None:
    rules: dict[str, dict[str, Any]] = {}
    for rule in _bucket()["LifecycleConfiguration"]["Rules"]:
        chosen = rule["Fn::If"][1] if "Fn::If" in rule else rule
        rules[chosen["Id"]] = {**chosen, "condition": rule.get("Fn::If", [None])[0]}
    assert all(rule["Status"] == "Enabled" for rule in rules.values())
    assert rules["old-versions"]["NoncurrentVersionExpiration"]["NoncurrentDays"] > 0
    assert rules["incomplete-uploads"]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] > 0
    assert rules["logs"]["Prefix"] == "logs/" and rules["logs"]["ExpirationInDays"] > 0
    assert rules["spark-events"]["Prefix"] == {"Fn::Sub": f"${{StorePrefix}}/{EVENT_LOGS}/"}
    assert rules["spark-events"]["ExpirationInDays"] == KEEP_DAYS
    assert rules["photos-are-lent"]["Prefix"] == {"Fn::Sub": "${PhotosPrefix}/"}
    assert rules["photos-are-lent"]["ExpirationInDays"] == {"Ref": "RetentionDays"}
    assert rules["photos-are-lent"]["condition"] == "EndData"


def test_the_bucket_logs_who_reads_photos() -> None:
    resources = load(str(TEMPLATE))["Resources"]
    assert _bucket()["LoggingConfiguration"]["DestinationBucketName"] == {"Ref": "AccessLogBucket"}
    logs = resources["AccessLogBucket"]["Properties"]
    assert set(logs["PublicAccessBlockConfiguration"].values()) == {True}
    [rule] = logs["LifecycleConfiguration"]["Rules"]
    assert rule["ExpirationInDays"] == 365
    statements = resources["AccessLogBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    [writer] = [statement for statement in statements if statement["Effect"] == "Allow"]
    assert writer["Principal"] == {"Service": "logging.s3.amazonaws.com"}


def test_nodes_have_encrypted_disks_and_version_2_of_the_metadata_service() -> None:
    # https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-create-security-configuration.html
    resources = load(str(TEMPLATE))["Resources"]
    configuration = resources["SecurityConfiguration"]["Properties"]["SecurityConfiguration"]
    assert configuration["InstanceMetadataServiceConfiguration"] == {
        "MinimumInstanceMetadataServiceVersion": 2,
        "HttpPutResponseHopLimit": 1,
    }
    condition, encryption, _ = configuration["EncryptionConfiguration"]["Fn::If"]
    disks = encryption["AtRestEncryptionConfiguration"]["LocalDiskEncryptionConfiguration"]
    assert (condition, disks["EnableEbsEncryption"]) == ("DiskEncryption", True)
    users = {
        action: statement["Principal"]["AWS"]
        for statement in resources["DiskKey"]["Properties"]["KeyPolicy"]["Statement"]
        for action in statement["Action"]
        if isinstance(statement["Action"], list)
    }
    roles = [{"Fn::GetAtt": [role, "Arn"]} for role in ("ServiceRole", "NodeRole")]
    assert users["kms:GenerateDataKey*"] == roles


def test_nodes_connect_to_s3_and_the_cluster_alone() -> None:
    resources = load(str(TEMPLATE))["Resources"]
    for name in ("PrimarySecurityGroup", "CoreSecurityGroup"):
        [rule] = resources[name]["Properties"]["SecurityGroupEgress"]
        condition, bound, _ = rule["Fn::If"]
        assert condition == "BoundEgress"
        assert bound["DestinationPrefixListId"] == {"Ref": "S3PrefixList"} and bound["ToPort"] == 443
    groups = {
        each["Properties"]["DestinationSecurityGroupId"]["Ref"]
        for each in resources.values()
        if each["Type"] == "AWS::EC2::SecurityGroupEgress"
    }
    clusters = {"PrimarySecurityGroup", "CoreSecurityGroup", "ServiceSecurityGroup"}
    assert groups == {*clusters, "EndpointSecurityGroup"}


def test_nodes_write_the_outputs_of_jobs_alone() -> None:
    [data] = load(str(TEMPLATE))["Resources"]["NodeRole"]["Properties"]["Policies"]
    [writes] = [each for each in data["PolicyDocument"]["Statement"] if each.get("Sid") == "WriteOutputs"]
    written = {each["Fn::Sub"].removeprefix("${Bucket.Arn}/${StorePrefix}/*") for each in writes["Resource"]}
    outputs = {RAW_IMAGES, QUARANTINED_IMAGES, MOBILENET_FEATURES, PCA_MODEL, PCA_FEATURES_CSV}
    assert {f"{name}/*" for name in {*outputs, *VERSION_FOLDERS.values(), EVENT_LOGS}} <= written
    for trusted in (FEATURE_EXTRACTOR, RUN_RECORDS, FEATURE_QUALITY, ENVIRONMENT_COMPARISON, "emr/code"):
        assert not any(pattern.startswith(trusted) for pattern in written)


def test_no_rule_deletes_current_objects_of_tables_models_or_csvs() -> None:
    for rule in _bucket()["LifecycleConfiguration"]["Rules"]:
        chosen = rule["Fn::If"][1] if "Fn::If" in rule else rule
        if "ExpirationInDays" in chosen:
            prefix = chosen["Prefix"]
            assert prefix in (
                "logs/",
                {"Fn::Sub": "${StorePrefix}/emr/"},
                {"Fn::Sub": "${PhotosPrefix}/"},
                {"Fn::Sub": f"${{StorePrefix}}/{EVENT_LOGS}/"},
            )


def test_a_budget_alarm_warns_before_and_at_the_limit() -> None:
    """A notification needs a subscriber, and a budget has at most five notifications:

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-budgets-budget.html
    """
    loaded = load(str(TEMPLATE))
    budget = loaded["Resources"]["Budget"]
    assert (budget["Type"], budget["Condition"]) == ("AWS::Budgets::Budget", "WithBudget")
    assert loaded["Parameters"]["BudgetUsd"]["Default"] == "0"
    limit = budget["Properties"]["Budget"]
    assert limit["BudgetLimit"] == {"Amount": {"Ref": "BudgetUsd"}, "Unit": "USD"}
    assert limit["TimeUnit"] == "MONTHLY" and "CostFilters" not in limit
    alarms = budget["Properties"]["NotificationsWithSubscribers"]
    assert {alarm["Notification"]["NotificationType"] for alarm in alarms} == {"ACTUAL", "FORECASTED"}
    for alarm in alarms:
        assert alarm["Subscribers"] == [{"SubscriptionType": "EMAIL", "Address": {"Ref": "BudgetEmail"}}]


def test_conditions_compare_text_with_text() -> None:
    """AWS's documentation has strings on both sides of Fn::Equals:

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference-conditions.html
    """

    def equals(value: Any) -> list[Any]:
        if isinstance(value, dict):
            own = [value["Fn::Equals"]] if "Fn::Equals" in value else []
            return own + [found for each in value.values() for found in equals(each)]
        return [found for each in value for found in equals(each)] if isinstance(value, list) else []

    compared = equals(load(str(TEMPLATE))["Conditions"])
    assert len(compared) >= 8
    for first, second in compared:
        assert isinstance(first, dict) and isinstance(second, str)
