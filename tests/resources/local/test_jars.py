"""The jars of S3A: what is downloaded, what is refused, and what stays in the cache."""

import hashlib
from pathlib import Path
from zipfile import ZipFile

import pytest

from resources.local import jars as module
from resources.local.jars import HADOOP_VERSION, S3A, JarSet, jars
from spark_jobs.errors import FruitsError

JAR = f"org.apache.hadoop_hadoop-aws-{HADOOP_VERSION}.jar"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache; each test is like a process of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jars.cache_clear()
    return tmp_path / "cache" / "fruits"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A mirror of Maven Central that has a small jar in place of hadoop-aws; returns the jar."""
    folder = tmp_path / "mirror" / "org" / "apache" / "hadoop" / "hadoop-aws" / HADOOP_VERSION
    folder.mkdir(parents=True)
    name = f"hadoop-aws-{HADOOP_VERSION}"
    (folder / f"{name}.pom").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>org.apache.hadoop</groupId>"
        f"<artifactId>hadoop-aws</artifactId><version>{HADOOP_VERSION}</version></project>"
    )
    with ZipFile(folder / f"{name}.jar", "w") as jar:
        jar.writestr("content", "1")
    monkeypatch.setenv("DEFAULT_ARTIFACT_REPOSITORY", (tmp_path / "mirror").as_uri())
    # Java takes the folder of ~/.m2 and ~/.ivy2 from this property, and not from HOME.
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", f"-Duser.home={tmp_path}")
    return folder / f"{name}.jar"


def small_set(tmp_path: Path, jar: Path) -> JarSet:
    """S3A whose lock has the mirror's jar alone."""
    lock = tmp_path / "jars.sha256"
    lock.write_text(f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  s3a/{JAR}\n")
    return JarSet("s3a", S3A.artifacts, lock)


def put_into_cache(cache: Path) -> Path:
    """A cache in which each jar of S3A has been changed."""
    folder = cache / f"s3a-{HADOOP_VERSION}"
    folder.mkdir(parents=True)
    for line in S3A.lock.read_text().splitlines():
        (folder / line.split("/")[1]).write_bytes(b"not a jar")
    return folder


def test_jars_are_downloaded_once_and_verified_by_each_process(
    mirror: Path, cache: Path, tmp_path: Path
) -> None:
    expected = small_set(tmp_path, mirror)
    [jar] = jars(expected)
    assert jar.read_bytes() == mirror.read_bytes()
    assert {path.name for path in cache.iterdir()} == {"lock", f"s3a-{HADOOP_VERSION}"}
    mirror.unlink()
    jars.cache_clear()
    assert jars(expected) == [jar]
    jar.write_bytes(b"changed later")
    jars.cache_clear()
    with pytest.raises(
        FruitsError, match=rf"{JAR} has SHA-256 {hashlib.sha256(b'changed later').hexdigest()}"
    ):
        jars(expected)


def test_another_jar_of_a_mirror_is_refused_by_name_and_never_kept(mirror: Path, cache: Path) -> None:
    with pytest.raises(
        FruitsError, match=r"aws-java-sdk-bundle-1\.12\.262\.jar is missing, but .*jars.sha256"
    ):
        jars(S3A)
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_a_jar_that_was_changed_in_the_cache_is_refused_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put_into_cache(cache)
    with pytest.raises(
        FruitsError, match=r"aws-java-sdk-bundle-1\.12\.262\.jar has SHA-256 .*downloads them again"
    ):
        jars(S3A)
    assert not folder.exists()
    downloads: list[JarSet] = []

    def fetch(jar_set: JarSet, scratch: Path) -> Path:
        downloads.append(jar_set)
        raise FruitsError("no network")

    monkeypatch.setattr(module, "fetch", fetch)
    with pytest.raises(FruitsError, match="no network"):
        jars(S3A)
    assert downloads == [S3A]


def test_a_failed_download_is_a_sentence_with_the_remedy(mirror: Path, cache: Path) -> None:
    mirror.with_suffix(".pom").unlink()
    mirror.unlink()
    with pytest.raises(FruitsError) as error:
        jars(S3A)
    sentence = str(error.value)
    assert sentence.startswith(
        f"The jars of org.apache.hadoop:hadoop-aws:{HADOOP_VERSION} can't be downloaded"
    )
    assert "unresolved dependency" in sentence
    assert "DEFAULT_ARTIFACT_REPOSITORY" in sentence
    assert "\n" not in sentence
    assert [path.name for path in cache.iterdir()] == ["lock"]
