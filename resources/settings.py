"""Every setting of the platform. No other module reads a FRUITS_* variable."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from resources.env_file import read_env_file
from resources.instance_types import common_architecture, instance
from resources.rights import check_shared, set_umask
from spark_jobs.errors import FruitsError
from spark_jobs.photos.limits import DEFAULT_LIMITS, Limits
from spark_jobs.store.root import DEFAULT_REGION, plain_s3_uri, split_s3_uri
from spark_jobs.wording import visible

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# AWS regions in the European Union (London and Zurich are outside).
EU_REGIONS = ["eu-west-3", "eu-west-1", "eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2"]


def _root(value: str) -> str:
    """`s3://bucket/prefix`, or a local path as an absolute path; without a slash at the end."""
    value = plain_s3_uri(value)
    if value.startswith("s3://"):
        bucket, prefix = split_s3_uri(value)
        prefix = prefix.rstrip("/")
        if not bucket:
            raise ValueError("names no bucket; write s3://bucket/prefix")
        if prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/")):
            # Some S3 clients take these parts as they are, and others remove them.
            raise ValueError(
                "has an empty part, . or .. in its prefix; write s3://bucket/prefix without them"
            )
        return f"s3://{bucket}/{prefix}".removesuffix("/")
    if "://" in value:
        raise ValueError("is of an unknown kind; give a local path or s3://bucket/prefix")
    return str(Path(value).expanduser().absolute())


def _lies_in(inner: str, outer: str) -> bool:
    """Whether a folder or prefix is another one or lies in it, by the places to which links lead."""
    if inner.startswith("s3://") or outer.startswith("s3://"):
        return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")
    inside, around = (Path(os.path.realpath(folder)) for folder in (inner, outer))
    # The same folder may have two names: in letters of another case on macOS, and where it is mounted twice.
    return any(each == around or _same(each, around) for each in (inside, *inside.parents))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # it does not exist yet
        return False


def _tags(value: str | dict[str, str]) -> dict[str, str]:
    """`project=x,team=y` as a dictionary."""
    if isinstance(value, dict):
        return value
    pairs = [word.partition("=") for word in _words(value)]
    if not all(key.strip() and middle for key, middle, _ in pairs):
        raise ValueError("is not of the form name=value,name=value")
    return {key.strip(): text.strip() for key, _, text in pairs}


def _words(value: str | list[str]) -> list[str]:
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _instance_type(value: str) -> str:
    instance(value)
    return value


def _webhook(value: SecretStr) -> SecretStr:
    url = urlsplit(value.get_secret_value())
    if url.scheme != "https" and url.hostname not in ("127.0.0.1", "localhost"):
        raise ValueError("is not of the form https://...")
    return value


def _mailbox(value: SecretStr) -> SecretStr:
    url = urlsplit(value.get_secret_value())
    if url.scheme not in ("smtp", "smtps") or not url.hostname or not parse_qs(url.query).get("to"):
        raise ValueError("is not of the form smtp://user:password@host:587/?from=...&to=...")
    return value


InstanceType = Annotated[str, AfterValidator(_instance_type)]
AwsAccount = Annotated[str, Field(pattern=r"^\d{12}$")]
StorageRoot = Annotated[str, AfterValidator(_root)]
Kind = TypeVar("Kind", bound="AccountSettings")


class AccountSettings(BaseSettings):
    """The settings that prepare an AWS account; they name neither photos nor a store.

    Each setting comes from an environment variable: FRUITS_ and the name of the setting in capitals.
    """

    model_config = SettingsConfigDict(env_prefix="FRUITS_", env_ignore_empty=True, frozen=True)

    emr_stack: str = Field(
        "fruits",
        # The role of the nodes is named after stack and region, and IAM allows 64 characters.
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,42}$",
        description="Name of the CloudFormation stack in which clusters run.",
    )
    region: str = Field(DEFAULT_REGION, description="AWS region of the clusters, of their stack and of S3.")
    allowed_regions: Annotated[list[str], NoDecode, BeforeValidator(_words)] = Field(
        EU_REGIONS,
        description="AWS regions that may store and process photos, separated by commas.",
    )
    allow_endpoint: str | None = Field(
        None, description="Address of an S3 server other than AWS's that may store photos, exactly as set."
    )

    shared: bool = Field(
        False,
        description="Share what is written on disk with the group of the folders, instead of with nobody.",
    )
    prices: Path | None = Field(
        None, description="A TOML file of prices with the keys of resources/prices.toml, which it replaces."
    )


class StoreSettings(AccountSettings):
    """The settings that read a store and project the cost of a run; they name no photos."""

    store: StorageRoot = Field(
        default_factory=lambda: _root("fruits_store"),
        description="Root of all outputs: a local path or s3://bucket/prefix.",
    )
    store_account: AwsAccount | None = Field(
        None,
        description="AWS account that owns the bucket of FRUITS_STORE; that of the credentials if unset.",
    )
    ui_url: str = Field(
        "http://127.0.0.1:3000",
        pattern=r"^https?://[^/]+/?$",
        description="Address of Dagster's UI, for links, and by which browsers may reach it.",
    )
    ui_read_only: bool = Field(False, description="Show the UI without the buttons that start or change.")
    emr_primary_type: InstanceType = Field("m5.xlarge", description="Instance type of the primary node.")
    emr_core_type: InstanceType = Field("m5.xlarge", description="Instance type of the core nodes.")
    emr_max_hourly_cost: float = Field(
        2.0, gt=0, description="No cluster starts that costs more USD an hour, at on-demand prices."
    )

    @model_validator(mode="after")
    def _nodes_have_one_architecture(self) -> Self:
        common_architecture(self.emr_primary_type, self.emr_core_type)
        return self


class Settings(StoreSettings):
    """All settings, for runs."""

    env: Literal["local", "emr"] = Field(
        "local", description="Where Spark runs: local is this machine, emr is an AWS EMR cluster."
    )
    images: StorageRoot = Field(
        description="Root of the photos, one folder a class: a local path or s3://bucket/prefix."
    )
    images_account: AwsAccount | None = Field(
        None,
        description="AWS account that owns the bucket of FRUITS_IMAGES; that of the credentials if unset.",
    )
    weights: str = Field(
        "imagenet",
        description="Weights of MobileNetV2: imagenet, embedded, random, or a file (path or s3://...). "
        "#sha256=... at the end pins the content.",
    )
    spark_cores: int | None = Field(None, ge=1, description="Spark's cores; all of the machine if unset.")
    spark_memory: str = Field("1g", pattern=r"^\d+[mg]$", description="Memory of Spark's JVM, as 700m or 1g.")
    max_image_bytes: int = Field(50_000_000, ge=1, description="A photo of more bytes is quarantined.")
    # Phones of today have 50 to 200 megapixels. A photo takes up to 8 bytes a pixel of a worker's memory.
    max_image_pixels: int = Field(
        120_000_000, ge=1, le=250_000_000, description="A photo of more pixels is quarantined."
    )
    max_decode_seconds: float = Field(
        DEFAULT_LIMITS.seconds, gt=0, description="A photo whose decoding takes more CPU time is quarantined."
    )
    max_decode_bytes: int = Field(
        DEFAULT_LIMITS.memory, ge=1, description="A photo whose decoding takes more memory is quarantined."
    )
    decode: Literal["exact", "scaled"] = Field(
        "exact",
        description="How large JPEGs are decoded: exact is every pixel, scaled is a smaller scale: it is "
        "faster, and features differ a little.",
    )
    keep_metadata: bool = Field(
        False, description="Keep the metadata of photos: position, time, device, author."
    )
    max_bad_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A class with a larger share of bad photos keeps its last version.",
    )
    keep_hours: float = Field(24, ge=0, description="Hours before a later run removes a replaced version.")
    erasure_key: Path | None = Field(
        None,
        description="The file of the key to the list of erased photos; DAGSTER_HOME/erasure.key if unset.",
    )
    min_explained_variance: float = Field(
        0.5, ge=0, le=1, description="A PCA model with a smaller share of explained variance fails its check."
    )

    max_drift: float = Field(
        0.05,
        ge=0,
        le=1,
        description=(
            "A check warns if the model keeps this share less of the variance of the images that came after "
            "it than of those that it was fitted on."
        ),
    )

    late_hours: float = Field(
        24,
        gt=0,
        description="A check warns of a CSV whose photos changed more than this number of hours ago.",
    )

    observe_seconds: int | None = Field(
        None,
        ge=10,
        description="Seconds between two looks at the photos; 30 on disk and 900 on S3 if unset.",
    )
    keep_run_days: float = Field(
        90, gt=0, description="Days after which the logs of a run's steps are removed."
    )
    alert_slack: Annotated[SecretStr, AfterValidator(_webhook)] | None = Field(
        None, description="Incoming webhook of Slack, https://..., for alerts."
    )
    alert_email: Annotated[SecretStr, AfterValidator(_mailbox)] | None = Field(
        None,
        description="Mail server and addresses for alerts: smtp://user:password@host:587/?from=...&to=...",
    )
    alert_sns: str | None = Field(
        None, pattern=r"^arn:aws[a-z-]*:sns:[^:]+:\d+:.+$", description="ARN of an SNS topic for alerts."
    )
    alert_cost: float | None = Field(
        None, gt=0, description="Alert if a run costs more USD, by on-demand prices."
    )

    emr_cluster: str | None = Field(
        None,
        pattern=r"^j-[A-Z0-9]+$",
        description="Id of a running EMR cluster, j-...; if unset, each run starts a cluster of its own.",
    )
    emr_release: str = Field("emr-7.13.0", pattern=r"^emr-7\.\d+\.\d+$", description="EMR's release label.")
    emr_core_nodes: int = Field(2, ge=1, description="Number of core nodes.")
    emr_max_nodes: int | None = Field(
        None,
        ge=2,
        description="EMR's managed scaling adds core nodes up to this number; none if unset.",
    )
    emr_spot: bool = Field(False, description="Whether core nodes are spot instances; the primary never is.")
    emr_wait_minutes: float = Field(
        10, gt=0, description="A job on EMR that gets no executor for this number of minutes fails."
    )
    emr_idle_minutes: int = Field(
        15, ge=1, le=10_080, description="EMR terminates a cluster after this many minutes without a step."
    )
    emr_logs: str | None = Field(
        None,
        pattern="^s3://.",
        description="Where EMR writes logs: below s3://bucket/logs/ of the stack, which is the default.",
    )
    emr_tags: Annotated[dict[str, str], NoDecode, BeforeValidator(_tags)] = Field(
        {}, description="More tags for clusters, name=value, separated by commas."
    )
    emr_key_name: str | None = Field(None, description="An EC2 key pair for SSH; Session Manager needs none.")

    @property
    def erasure_key_file(self) -> Path:
        return self.erasure_key or Path(os.environ.get("DAGSTER_HOME", ".dagster"), "erasure.key")

    @property
    def decodes_scaled(self) -> bool:
        return self.decode == "scaled"

    @property
    def decode_limits(self) -> Limits:
        return Limits(self.max_decode_seconds, self.max_decode_bytes)

    @property
    def makes_clusters(self) -> bool:
        """Whether each run starts an EMR cluster of its own."""
        return self.env == "emr" and self.emr_cluster is None

    @property
    def emr_most_nodes(self) -> int:
        """The number of core nodes with all that managed scaling may add."""
        return self.emr_max_nodes or self.emr_core_nodes

    @model_validator(mode="after")
    def _emr_is_complete(self) -> "Settings":
        if self.env == "emr":
            if self.emr_max_nodes is not None and self.emr_max_nodes < self.emr_core_nodes:
                raise ValueError(
                    f"FRUITS_EMR_MAX_NODES={self.emr_max_nodes} is less than "
                    f"FRUITS_EMR_CORE_NODES={self.emr_core_nodes}, with which a cluster starts. Set a larger "
                    "number"
                )
            for name, root in (("IMAGES", self.images), ("STORE", self.store)):
                if not root.startswith("s3://"):
                    raise ValueError(
                        f"FRUITS_{name}={root} is on this machine, and a cluster cannot read it. With "
                        "FRUITS_ENV=emr, set it to s3://bucket/prefix"
                    )
        return self

    @property
    def has_alerts(self) -> bool:
        """Whether a channel for alerts is set."""
        return bool(self.alert_slack or self.alert_email or self.alert_sns)

    @model_validator(mode="after")
    def _roots_are_apart(self) -> "Settings":
        if _lies_in(self.store, self.images) or _lies_in(self.images, self.store):
            raise ValueError(
                f"FRUITS_STORE={self.store} and FRUITS_IMAGES={self.images} lie inside each other: the next "
                "run would read outputs as photos. Set FRUITS_STORE to a folder outside the photos"
            )
        # Where it is not set, it is a hidden folder, which a listing of photos skips.
        home = os.environ.get("DAGSTER_HOME")
        for variable, folder in {"DAGSTER_HOME": home, "FRUITS_EMR_LOGS": self.emr_logs}.items():
            if folder and _lies_in(folder, self.images):
                raise ValueError(
                    f"{variable}={folder} lies in FRUITS_IMAGES={self.images}: a run would write among the "
                    f"photos. Set {variable} to a folder outside the photos"
                )
        return self


def load_settings(kind: type[Kind]) -> Kind:
    """The settings of a kind, from the environment and from the file `.env` of the working directory.

    A variable of the environment wins over its line in `.env`, unless it is empty. The settings of `.env`
    become part of the environment, because AWS's libraries and Dagster read their variables there.
    FRUITS_REGION becomes AWS_REGION, which S3's clients read. Where a root is on S3, all S3 clients get the
    credentials that boto3 finds. From then on, new files of this process are its user's own, or with
    FRUITS_SHARED also its group's.

    Raises `FruitsError` with one sentence for each unusable value, where there are no credentials for S3, and
    for an S3 server where photos may not be; also the errors of `read_env_file` and `check_shared`.
    """
    for name, value in read_env_file().items():
        if not os.environ.get(name):
            os.environ[name] = value
    try:
        settings = kind()
    except pydantic.ValidationError as error:
        raise FruitsError("; ".join(_sentence(detail) for detail in error.errors())) from None
    set_umask(settings.shared)
    if settings.shared:
        for variable, root in _local_roots(settings).items():
            check_shared(variable, root)
    if "region" in settings.model_fields_set:
        os.environ["AWS_REGION"] = settings.region
    if any(getattr(settings, root, "").startswith("s3://") for root in ("images", "store")):
        from resources.aws_credentials import provide_credentials
        from resources.s3_server import check_server

        provide_credentials()
        check_server(settings.allowed_regions, settings.allow_endpoint)
    return settings


def settings_table(settings: AccountSettings) -> str:
    """Each setting with its value and meaning, as a table in Markdown; a secret has no value."""
    rows = [
        f"| `FRUITS_{name.upper()}` | {_shown(getattr(settings, name))} | {field.description} |"
        for name, field in sorted(type(settings).model_fields.items())
    ]
    return "\n".join(["| setting | value | meaning |", "| --- | --- | --- |", *rows])


def _shown(value: object) -> str:
    """The value of a setting in the form of its variable, as code in a table of Markdown."""
    if value is None or value == {}:
        return "not set"
    if isinstance(value, SecretStr):
        return "hidden"
    if isinstance(value, list):
        value = ",".join(value)
    elif isinstance(value, dict):
        value = ",".join(f"{name}={text}" for name, text in value.items())
    elif isinstance(value, bool):
        value = int(value)
    elif isinstance(value, float):
        value = f"{value:g}"
    text = visible(str(value)).replace("|", "\\|")
    return f"``{text}``" if "`" in text else f"`{text}`"


def _local_roots(settings: AccountSettings) -> dict[str, Path]:
    """The folders on disk that commands write to, by the names of their variables."""
    roots = {
        "FRUITS_STORE": getattr(settings, "store", ""),
        "DAGSTER_HOME": os.environ.get("DAGSTER_HOME", ""),
    }
    return {name: Path(root) for name, root in roots.items() if root and not root.startswith("s3://")}


def _sentence(detail: "ErrorDetails") -> str:
    """One error of pydantic as a sentence: the variable, its value, the reason and its description."""
    if not detail["loc"]:
        return str(detail["msg"]).removeprefix("Value error, ")
    name = str(detail["loc"][0])
    variable = f"FRUITS_{name.upper()}"
    meaning = Settings.model_fields[name].description
    if detail["type"] == "missing":
        return f"{variable} is not set. {meaning} See .env.example"
    reason = detail["msg"].removeprefix("Value error, ").removesuffix(".")
    # The address of a channel holds a password or a token.
    value = "(hidden)" if name in ("alert_slack", "alert_email") else detail["input"]
    return f"{variable}={value!s}: {reason[0].lower()}{reason[1:]}. {meaning} See .env.example"
