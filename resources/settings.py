"""Every setting of the platform: read from the environment here, and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from resources.instance_types import instance
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import DEFAULT_REGION, split_s3_uri

# The regions of AWS that lie in the European Union (London and Zurich do not).
EU_REGIONS = ["eu-west-3", "eu-west-1", "eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2"]


def _root(value: str) -> str:
    """An `s3://bucket/prefix`, or a local path made absolute; no slash at the end."""
    if value.startswith("s3://"):
        bucket, _ = split_s3_uri(value)
        if not bucket:
            raise ValueError("names no bucket; write s3://bucket/prefix")
        return value.rstrip("/")
    if "://" in value:
        raise ValueError("is of an unknown kind; give a local path or s3://bucket/prefix")
    return str(Path(value).expanduser().absolute())


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


InstanceType = Annotated[str, AfterValidator(_instance_type)]
StorageRoot = Annotated[str, AfterValidator(_root)]


class AccountSettings(BaseSettings):
    """What an AWS account is prepared by, before there are photos and a store in it.

    Each setting is from the variable `FRUITS_` and its name in capitals. The environment comes first, then
    the file `.env` of the working directory.
    """

    model_config = SettingsConfigDict(
        env_prefix="FRUITS_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    emr_stack: str = Field(
        "fruits",
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,127}$",
        description="Name of the CloudFormation stack that clusters are made in.",
    )
    region: str = Field(DEFAULT_REGION, description="AWS region of clusters and their stack.")
    allowed_regions: Annotated[list[str], NoDecode, BeforeValidator(_words)] = Field(
        EU_REGIONS,
        description="AWS regions in which photos may lie and be worked on, separated by commas.",
    )

    prices: Path | None = Field(
        None, description="A file of prices in the place of resources/prices.toml, of the same shape."
    )


class StoreSettings(AccountSettings):
    """What is needed to read what runs have left, and to project one, without photos."""

    store: StorageRoot = Field(
        default_factory=lambda: _root("fruits_store"),
        description="Root of everything that is written: a local path or s3://bucket/prefix.",
    )
    emr_primary_type: InstanceType = Field("m5.xlarge", description="Instance type of the primary node.")
    emr_core_type: InstanceType = Field("m5.xlarge", description="Instance type of the core nodes.")
    emr_max_hourly_cost: float = Field(
        2.0, gt=0, description="USD an hour above which no cluster is started, at prices on demand."
    )


class Settings(StoreSettings):
    """The platform's settings."""

    env: Literal["local", "emr"] = Field(
        "local", description="Where Spark runs: local is this machine, emr an AWS EMR cluster."
    )
    images: StorageRoot = Field(
        description="Root of the photos, one folder a class: a local path or s3://bucket/prefix."
    )
    weights: str = Field(
        "imagenet",
        description="The model's weights: imagenet, embedded, random, or a file (path or "
        "s3://...), pinned by #sha256=... at its end if wanted.",
    )
    spark_cores: int | None = Field(None, ge=1, description="Cores for Spark; all of the machine's if unset.")
    spark_memory: str = Field("1g", pattern=r"^\d+[mg]$", description="Memory of Spark's JVM.")
    max_image_bytes: int = Field(50_000_000, ge=1, description="A larger photo is quarantined.")
    # Pillow refuses to open a picture of more pixels than the upper bound.
    max_image_pixels: int = Field(
        50_000_000, ge=1, le=178_956_970, description="A photo of more pixels is quarantined."
    )
    max_bad_share: float = Field(
        0.1, ge=0, le=1, description="A class with a larger share of bad photos keeps its last version."
    )
    keep_hours: float = Field(
        24, ge=0, description="Hours for which a replaced version can still be read before it is removed."
    )
    min_explained_variance: float = Field(
        0.5, ge=0, le=1, description="A PCA model that keeps a smaller share of the variance fails its check."
    )

    emr_cluster: str | None = Field(
        None,
        pattern=r"^j-[A-Z0-9]+$",
        description="A running EMR cluster that steps go to, j-...; without it, one is made for the run.",
    )
    emr_release: str = Field("emr-7.13.0", pattern=r"^emr-7\.\d+\.\d+$", description="EMR's release.")
    emr_core_nodes: int = Field(2, ge=1, description="Number of core nodes.")
    emr_max_nodes: int | None = Field(
        None, ge=2, description="EMR's managed scaling adds core nodes up to this number; none if unset."
    )
    emr_spot: bool = Field(False, description="Whether core nodes are spot instances; the primary never is.")
    emr_step_concurrency: int = Field(1, ge=1, le=256, description="Steps that a cluster runs at once.")
    emr_idle_minutes: int = Field(
        15, ge=1, le=10_080, description="Minutes without a step after which EMR ends a cluster by itself."
    )
    emr_logs: str | None = Field(
        None, pattern="^s3://.", description="Where EMR puts logs: the stack's s3://bucket/logs/, or below."
    )
    emr_tags: Annotated[dict[str, str], NoDecode, BeforeValidator(_tags)] = Field(
        {}, description="Further tags of clusters, name=value, separated by commas."
    )
    emr_key_name: str | None = Field(
        None, description="An EC2 key pair to log in with by SSH; Session Manager needs none."
    )

    @property
    def makes_clusters(self) -> bool:
        """Whether runs start EMR clusters of their own."""
        return self.env == "emr" and self.emr_cluster is None

    @model_validator(mode="after")
    def _emr_is_complete(self) -> "Settings":
        if self.env == "emr":
            if self.emr_max_nodes is not None and self.emr_max_nodes < self.emr_core_nodes:
                raise ValueError(
                    f"FRUITS_EMR_MAX_NODES={self.emr_max_nodes} is less than the "
                    f"FRUITS_EMR_CORE_NODES={self.emr_core_nodes} that a cluster begins with. Set more"
                )
            for name, root in (("IMAGES", self.images), ("STORE", self.store)):
                if not root.startswith("s3://"):
                    raise ValueError(
                        f"FRUITS_{name}={root} is on this machine, where a cluster cannot read it. With "
                        "FRUITS_ENV=emr it must be s3://bucket/prefix"
                    )
        return self

    @model_validator(mode="after")
    def _roots_are_apart(self) -> "Settings":
        images, store = f"{self.images}/", f"{self.store}/"
        if store.startswith(images) or images.startswith(store):
            raise ValueError(
                f"FRUITS_STORE={self.store} and FRUITS_IMAGES={self.images} lie inside each other: what is "
                "written would be read as photos. Give the store a root of its own"
            )
        return self


def load_settings() -> Settings:
    """The settings of this process. Raises `FruitsError` with all that are unusable."""
    with _errors_as_sentences():
        return Settings()


def load_account_settings() -> AccountSettings:
    """The settings of this process that don't need photos. Raises `FruitsError` like `load_settings`."""
    with _errors_as_sentences():
        return AccountSettings()


def load_store_settings() -> StoreSettings:
    """The settings of this process that don't need photos, with the store. Raises `FruitsError` alike."""
    with _errors_as_sentences():
        return StoreSettings()


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    try:
        yield
    except pydantic.ValidationError as error:
        raise FruitsError("; ".join(_sentence(detail) for detail in error.errors())) from None


def _sentence(detail: "pydantic_core.ErrorDetails") -> str:  # type: ignore[name-defined]  # noqa: F821
    if not detail["loc"]:
        return str(detail["msg"]).removeprefix("Value error, ")
    name = str(detail["loc"][0])
    variable = f"FRUITS_{name.upper()}"
    meaning = Settings.model_fields[name].description
    if detail["type"] == "missing":
        return f"{variable} is not set. {meaning} See .env.example"
    reason = detail["msg"].removeprefix("Value error, ")
    return f"{variable}={detail['input']!s}: {reason[0].lower()}{reason[1:]}. {meaning} See .env.example"
