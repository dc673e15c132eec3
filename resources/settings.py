"""Every setting of the platform: read from the environment here, and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fruits_assets.store.root import DEFAULT_REGION

# The regions of AWS that lie in the European Union (London and Zurich do not).
EU_REGIONS = ["eu-west-3", "eu-west-1", "eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2"]


class SettingsError(ValueError):
    """A setting is missing or bad; the message names the variable, the value and the remedy."""


def _root(value: str) -> str:
    """An `s3://bucket/prefix`, or a local path made absolute; no slash at the end."""
    if value.startswith("s3://"):
        bucket = value.removeprefix("s3://").partition("/")[0]
        if not bucket:
            raise ValueError("names no bucket; write s3://bucket/prefix")
        return value.rstrip("/")
    if "://" in value:
        raise ValueError("is of an unknown kind; give a local path or s3://bucket/prefix")
    return str(Path(value).expanduser().absolute())


def _words(value: str | list[str]) -> list[str]:
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


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


class Settings(AccountSettings):
    """The platform's settings."""

    env: Literal["local", "emr"] = Field(
        "local", description="Where Spark runs: local is this machine, emr an AWS EMR cluster."
    )
    images: StorageRoot = Field(
        description="Root of the photos, one folder a class: a local path or s3://bucket/prefix."
    )
    store: StorageRoot = Field(
        default_factory=lambda: _root("fruits_store"),
        description="Root of everything that is written: a local path or s3://bucket/prefix.",
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
        None, pattern=r"^j-[A-Z0-9]+$", description="The running EMR cluster that steps go to, j-..."
    )

    @model_validator(mode="after")
    def _emr_is_complete(self) -> "Settings":
        if self.env == "emr":
            if self.emr_cluster is None:
                raise ValueError(
                    "FRUITS_EMR_CLUSTER is not set, and FRUITS_ENV=emr needs a running cluster, j-..."
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
    """The settings of this process. Raises `SettingsError` with all that are unusable."""
    with _errors_as_sentences():
        return Settings()  # type: ignore[call-arg]  # the environment gives the arguments


def load_account_settings() -> AccountSettings:
    """The settings of this process that don't need photos. Raises `SettingsError` like `load_settings`."""
    with _errors_as_sentences():
        return AccountSettings()  # type: ignore[call-arg]


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    try:
        yield
    except pydantic.ValidationError as error:
        raise SettingsError("; ".join(_sentence(detail) for detail in error.errors())) from None


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
