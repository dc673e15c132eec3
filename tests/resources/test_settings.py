"""Settings, Java and the Spark configuration, from the environment."""

import os
import sys
from pathlib import Path

import pytest

from fruits_assets.definitions import defs
from resources.local.session import S3_CLIENT, session_config
from resources.settings import AccountSettings, Settings, StoreSettings, load_settings
from spark_jobs.errors import FruitsError
from tests.support import REPOSITORY

ENV_EXAMPLE = REPOSITORY / ".env.example"


@pytest.fixture(autouse=True)
def images_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITS_IMAGES", "/photos")


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("FRUITS_ENV", "moon", "local"),
        ("FRUITS_IMAGES", "s3://", r"names no bucket; write s3://bucket/prefix"),
        ("FRUITS_IMAGES", "s3:///prefix", r"names no bucket; write s3://bucket/prefix"),
        ("FRUITS_IMAGES", "ftp://host/photos", r"unknown kind; give a local path or s3://"),
        ("FRUITS_STORE", "gs://bucket", r"unknown kind; give a local path or s3://"),
        ("FRUITS_SPARK_CORES", "0", "greater than or equal to 1"),
        ("FRUITS_SPARK_CORES", "two", "integer"),
        ("FRUITS_SPARK_MEMORY", "lots", "match"),
        ("FRUITS_MAX_IMAGE_BYTES", "0", "greater than or equal to 1"),
        ("FRUITS_MAX_IMAGE_PIXELS", "1e99x", "integer"),
        ("FRUITS_MAX_BAD_SHARE", "1.5", "less than or equal to 1"),
        ("FRUITS_KEEP_HOURS", "-1", "greater than or equal to 0"),
        ("FRUITS_MIN_EXPLAINED_VARIANCE", "most", "number"),
        ("FRUITS_EMR_CORE_TYPE", "t3.micro", "family .* is not known here.* m5.xlarge"),
        ("FRUITS_EMR_CORE_TYPE", "m5.large", "EMR 7, which offers m5 in the sizes xlarge, 2xlarge"),
        ("FRUITS_EMR_PRIMARY_TYPE", "m7g.large", "EMR 7, which offers m7g in the sizes xlarge, 2xlarge"),
        ("FRUITS_EMR_TAGS", "team", "not of the form name=value"),
        ("FRUITS_EMR_MAX_HOURLY_COST", "0", "greater than 0"),
        ("FRUITS_MAX_DRIFT", "2", "less than or equal to 1"),
        ("FRUITS_LATE_HOURS", "0", "greater than 0"),
        ("FRUITS_OBSERVE_SECONDS", "1", "greater than or equal to 10"),
        ("FRUITS_UI_URL", "dagster", "match"),
        ("FRUITS_ALERT_SNS", "alerts", "match"),
        ("FRUITS_ALERT_COST", "0", "greater than 0"),
    ],
)
def test_a_bad_value_is_refused_with_variable_value_and_remedy(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(FruitsError, match=f"^{variable}={value}: .*{reason}.*See .env.example"):
        load_settings(Settings)


@pytest.fixture(autouse=True)
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings with a root on S3 need credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


def test_one_error_names_every_bad_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITS_IMAGES", "s3://")
    monkeypatch.setenv("FRUITS_KEEP_HOURS", "soon")
    with pytest.raises(FruitsError, match=r"FRUITS_IMAGES=.*FRUITS_KEEP_HOURS="):
        load_settings(Settings)


@pytest.mark.parametrize(
    ("images", "store"),
    [("/data", "/data"), ("/data", "/data/store"), ("/data/images", "/data"), ("s3://b/x", "s3://b")],
)
def test_photos_and_store_inside_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, images: str, store: str
) -> None:
    monkeypatch.setenv("FRUITS_IMAGES", images)
    monkeypatch.setenv("FRUITS_STORE", store)
    with pytest.raises(FruitsError, match=f"^FRUITS_STORE={store} and FRUITS_IMAGES={images} lie inside"):
        load_settings(Settings)
    monkeypatch.setenv("FRUITS_STORE", f"{images}-store")
    assert load_settings(Settings).store == f"{images}-store"


@pytest.mark.parametrize(
    ("images", "store"),
    [
        ("photos", "other/../photos/store"),
        ("photos", "link/store"),
        ("link", "photos/store"),
        ("link/Kiwi", "photos"),
        ("s3://b/x/", "s3://b/x"),
        ("s3a://b/x", "s3://b/x/y/"),
    ],
)
def test_other_names_of_one_folder_are_the_same_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: str, store: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.setenv("FRUITS_IMAGES", images)
    monkeypatch.setenv("FRUITS_STORE", store)
    with pytest.raises(FruitsError, match="lie inside each other"):
        load_settings(Settings)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder with two names that are no links")
def test_a_folder_with_two_names_that_are_no_links_is_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    # /proc/PID/cwd is a link, and /proc/self/root/... is another path to each folder.
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)
    Path("photos").mkdir()
    monkeypatch.setenv("FRUITS_IMAGES", str(Path("photos").absolute()))
    monkeypatch.setenv("FRUITS_STORE", f"/proc/self/root{Path('photos').absolute()}/store")
    with pytest.raises(FruitsError, match="lie inside each other"):
        load_settings(Settings)


@pytest.mark.parametrize("prefix", ["x/../y", "x//y", "./x", ".."])
def test_a_prefix_that_clients_read_differently_is_refused(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv("FRUITS_STORE", f"s3://bucket/{prefix}")
    with pytest.raises(FruitsError, match=r"has an empty part, \. or \.\. in its prefix"):
        load_settings(Settings)


@pytest.mark.parametrize("home", ["photos/home", "link", "other/../photos"])
def test_dagsters_folder_among_the_photos_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.setenv("FRUITS_IMAGES", "photos")
    monkeypatch.setenv("DAGSTER_HOME", home)
    with pytest.raises(FruitsError, match=f"DAGSTER_HOME={home} lies in FRUITS_IMAGES=.*outside the photos"):
        load_settings(Settings)
    monkeypatch.setenv("DAGSTER_HOME", "photos-home")
    load_settings(Settings)


def test_logs_of_clusters_among_the_photos_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRUITS_IMAGES", "s3://bucket/photos")
    monkeypatch.setenv("FRUITS_EMR_LOGS", "s3://bucket/photos/logs/")
    with pytest.raises(FruitsError, match="FRUITS_EMR_LOGS=s3://bucket/photos/logs/ lies in FRUITS_IMAGES="):
        load_settings(Settings)


@pytest.mark.parametrize("kind", [Settings, StoreSettings])
def test_nodes_with_different_processors_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: type[StoreSettings]
) -> None:
    monkeypatch.setenv("FRUITS_EMR_CORE_TYPE", "m7g.2xlarge")
    expected = "primary node m5.xlarge is x86_64, and the core nodes m7g.2xlarge are aarch64"
    with pytest.raises(FruitsError, match=rf"{expected}.*FRUITS_EMR_PRIMARY_TYPE"):
        load_settings(kind)
    monkeypatch.setenv("FRUITS_EMR_PRIMARY_TYPE", "m6g.xlarge")
    assert load_settings(kind).emr_core_type == "m7g.2xlarge"


@pytest.mark.parametrize("empty", [False, True])
def test_missing_images_are_refused_with_the_variable_to_set(
    monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    if empty:
        monkeypatch.setenv("FRUITS_IMAGES", "")
    else:
        monkeypatch.delenv("FRUITS_IMAGES")
    with pytest.raises(FruitsError, match=r"FRUITS_IMAGES is not set. Root of the photos.*\.env\.example"):
        load_settings(Settings)


def test_only_the_images_need_to_be_set(tmp_path: Path) -> None:
    settings = load_settings(Settings)
    assert settings.images == "/photos"
    assert settings.store == str(tmp_path / "fruits_store")
    assert settings.weights == "imagenet"


@pytest.mark.parametrize(
    ("value", "root"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a prefix/", "s3://bucket/a prefix"),
        ("/a b/100%/#c/", "/a b/100%/#c"),
        ("photos", "{cwd}/photos"),
        ("~/photos", "{home}/photos"),
    ],
)
def test_a_root_becomes_absolute_and_ends_without_a_slash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, root: str
) -> None:
    monkeypatch.setenv("FRUITS_IMAGES", value)
    assert load_settings(Settings).images == root.format(cwd=tmp_path, home=Path.home())


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FRUITS_IMAGES=/from/file\nFRUITS_STORE=/from/file\n")
    settings = load_settings(Settings)
    assert (settings.images, settings.store) == ("/photos", "/from/file")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FRUITS_STORE=/from/file\nAWS_PROFILE=fruits\nFRUITS_WEIGHTS=\n")
    for name in ("FRUITS_STORE", "AWS_PROFILE"):
        monkeypatch.setenv(name, "")
    settings = load_settings(Settings)
    assert (settings.store, settings.weights) == ("/from/file", "imagenet")
    assert os.environ["AWS_PROFILE"] == "fruits"


def test_fruits_region_becomes_aws_region(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    load_settings(Settings)
    assert os.environ["AWS_REGION"] == "eu-west-1"
    (tmp_path / ".env").write_text("FRUITS_REGION=eu-north-1\n")
    load_settings(Settings)
    assert os.environ["AWS_REGION"] == "eu-north-1"


@pytest.mark.parametrize("kind", [AccountSettings, StoreSettings, Settings])
def test_every_kind_of_settings_reads_the_env_file(tmp_path: Path, kind: type[AccountSettings]) -> None:
    (tmp_path / ".env").write_text("FRUITS_REGION=eu-north-1\nAWS_PROFILE=fruits\n")
    assert load_settings(kind).region == "eu-north-1"
    assert os.environ["AWS_PROFILE"] == "fruits"


def test_definitions_read_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AWS_PROFILE=fruits\n")
    defs()
    assert os.environ["AWS_PROFILE"] == "fruits"


def test_the_example_file_shows_every_setting_with_its_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FRUITS_IMAGES")
    (tmp_path / ".env").write_text(ENV_EXAMPLE.read_text().replace("#FRUITS_", "FRUITS_"))
    settings = load_settings(Settings)
    assert settings.model_fields_set == set(Settings.model_fields)
    defaults = Settings(images=settings.images, _env_file=None)
    for name in Settings.model_fields:
        default = getattr(defaults, name)
        assert default in (None, {}) or getattr(settings, name) == default, name


# The S3 server.


@pytest.mark.parametrize("kind", [StoreSettings, Settings])
def test_a_profile_with_a_server_elsewhere_is_refused_when_settings_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[StoreSettings]
) -> None:
    (tmp_path / "config").write_text("[default]\nendpoint_url = https://s3.example.org\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("FRUITS_STORE", "s3://bucket/store")
    with pytest.raises(
        FruitsError, match=r"The S3 server is https://s3.example.org .*FRUITS_ALLOW_ENDPOINT="
    ):
        load_settings(kind)
    monkeypatch.setenv("FRUITS_ALLOW_ENDPOINT", "https://s3.example.org")
    assert load_settings(kind).allow_endpoint == "https://s3.example.org"


# Spark.


def spark_config(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return session_config(load_settings(Settings))


def test_spark_uses_the_cores_and_memory_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    config = spark_config(monkeypatch, FRUITS_SPARK_CORES="3", FRUITS_SPARK_MEMORY="700m")
    assert config["spark.master"].startswith("local[3,")
    assert config["spark.driver.memory"] == "700m"


@pytest.mark.parametrize("variable", ["FRUITS_IMAGES", "FRUITS_STORE"])
def test_spark_reads_s3_with_s3a_where_a_root_is_on_s3(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    assert S3_CLIENT not in spark_config(monkeypatch, FRUITS_STORE="/store")
    config = spark_config(monkeypatch, **{variable: "s3://bucket/x"})
    assert config[S3_CLIENT] == "org.apache.hadoop.fs.s3a.S3AFileSystem"
    assert "spark.jars.packages" not in config


def test_spark_gets_the_endpoint_of_s3_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    config = spark_config(
        monkeypatch,
        FRUITS_IMAGES="s3://bucket/x",
        AWS_ENDPOINT_URL="http://127.0.0.1:5000",
        AWS_ACCESS_KEY_ID="the-key",
        AWS_SECRET_ACCESS_KEY="the-secret",
    )
    assert config["spark.hadoop.fs.s3a.endpoint"] == "http://127.0.0.1:5000"
    assert config["spark.hadoop.fs.s3a.connection.ssl.enabled"] == "false"
    assert "the-" not in str(config)
