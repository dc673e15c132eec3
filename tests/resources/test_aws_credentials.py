"""S3's clients get the credentials that boto3 finds, wherever they come from, and their renewals."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError

import boto3
import pytest

from benchmarks.faults.s3_proxy import DENIED, s3_proxy
from resources.aws_credentials import provide_credentials
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import s3_endpoint
from tests.support import REPOSITORY


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AWS's configuration file: the profile `team` gets its keys from a program."""
    keys = {"Version": 1, "AccessKeyId": "AKIAPROGRAM", "SecretAccessKey": "secret", "SessionToken": "token"}
    keys["Expiration"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    config = tmp_path / "config"
    config.write_text(f"[profile team]\nregion = eu-north-1\ncredential_process = cat {tmp_path}/keys.json\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_PROFILE", "team")
    return config


@pytest.fixture
def signer() -> Iterator[tuple[str, list[str]]]:
    """An S3 server without objects, its address, and the access keys of the requests that it gets."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            signature = self.headers.get("Authorization", "")
            seen.append(signature.partition("Credential=")[2].partition("/")[0])
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()


def answer(token: str) -> dict[str, str]:
    request = urllib.request.Request(
        os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers={"Authorization": token}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        content: dict[str, str] = json.load(response)
    return content


def test_a_request_with_the_token_gets_the_keys_of_the_profile(profile: Path) -> None:
    provide_credentials()
    keys = answer(os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"])
    assert (keys["AccessKeyId"], keys["SecretAccessKey"], keys["Token"]) == ("AKIAPROGRAM", "secret", "token")
    assert os.environ["AWS_REGION"] == "eu-north-1"
    assert os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_request_without_the_token_is_refused(profile: Path, token: str) -> None:
    provide_credentials()
    with pytest.raises(HTTPError, match="403"):
        answer(token)


def test_only_the_user_can_read_the_token(profile: Path) -> None:
    provide_credentials()
    file = Path(os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
    assert file.read_text() == os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
    assert file.stat().st_mode & 0o077 == 0


def test_keys_that_are_renewed_are_served_at_once(profile: Path, tmp_path: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    keys = json.loads((tmp_path / "keys.json").read_text())
    (tmp_path / "keys.json").write_text(json.dumps(keys | {"Expiration": soon}))
    provide_credentials()
    (tmp_path / "keys.json").write_text(json.dumps(keys | {"AccessKeyId": "AKIARENEWED"}))
    assert answer(os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"])["AccessKeyId"] == "AKIARENEWED"


def test_keys_in_the_environment_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    before = dict(os.environ)
    provide_credentials()
    assert dict(os.environ) == before


def test_missing_credentials_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(FruitsError, match="no AWS credentials: set AWS_PROFILE or AWS_ACCESS_KEY_ID"):
        provide_credentials()


def test_a_profile_that_does_not_exist_is_named(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(FruitsError, match=r"profile \(nobody\) could not be found. Check AWS_PROFILE"):
        provide_credentials()


def test_credentials_that_cannot_be_renewed_are_named_at_the_start(profile: Path, tmp_path: Path) -> None:
    profile.write_text("[profile team]\ncredential_process = false\n")
    with pytest.raises(FruitsError, match=r"credentials cannot be used: .*custom-process.* renew them"):
        provide_credentials()


def test_a_role_that_cannot_be_assumed_is_named_at_the_start(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_proxy(lambda *_: DENIED) as address:
        profile.write_text(
            f"[profile team]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = keys\n"
            f"endpoint_url = {address}\nregion = eu-west-3\n"
            "[profile keys]\naws_access_key_id = AKIA\naws_secret_access_key = secret\n"
        )
        with pytest.raises(
            FruitsError, match=r"credentials cannot be used: .*AssumeRole.* Check AWS_PROFILE"
        ):
            provide_credentials()


def test_a_renewal_that_fails_in_a_run_is_answered_with_its_reason(profile: Path, tmp_path: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    keys = json.loads((tmp_path / "keys.json").read_text())
    (tmp_path / "keys.json").write_text(json.dumps(keys | {"Expiration": soon}))
    provide_credentials()
    (tmp_path / "keys.json").unlink()
    with pytest.raises(HTTPError) as raised:
        answer(os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"])
    assert raised.value.code == 500
    assert "keys.json" in json.load(raised.value)["Message"]


@pytest.mark.parametrize("file", ["config", "credentials"])
def test_keys_in_a_file_are_read_again_when_a_client_asks(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    section = "[profile team]" if file == "config" else "[team]"
    text = f"{section}\naws_access_key_id = AKIA{{}}\naws_secret_access_key = secret\n"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    profile.write_text("[profile team]\n")
    (tmp_path / file).write_text(text.format("OLD"))
    provide_credentials()
    (tmp_path / file).write_text(text.format("NEW"))
    assert answer(os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"])["AccessKeyId"] == "AKIANEW"


@pytest.mark.parametrize("keys", ["profile", "environment"])
def test_the_s3_server_of_a_profile_is_that_of_all_clients(
    profile: Path, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    profile.write_text(f"{profile.read_text()}endpoint_url = https://s3.example.org\n")
    if keys == "environment":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    provide_credentials()
    assert s3_endpoint() == "https://s3.example.org"


def test_the_server_of_a_services_section_is_that_of_all_clients(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html has the order."""
    profile.write_text(
        f"{profile.read_text()}endpoint_url = https://all.example.org\nservices = mine\n"
        "[services mine]\ns3 =\n  endpoint_url = https://s3.example.org\n"
    )
    provide_credentials()
    assert s3_endpoint() == "https://s3.example.org" == boto3.client("s3").meta.endpoint_url


def test_servers_that_boto3_ignores_are_ignored_by_all_clients(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "https://s3.example.org")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    provide_credentials()
    assert s3_endpoint() is None


def test_a_server_that_only_deltalake_would_use_is_forgotten(
    profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its object store reads each variable with the name of an option: AWS_ENDPOINT is `aws_endpoint`.

    https://docs.rs/object_store/latest/object_store/aws/enum.AmazonS3ConfigKey.html
    """
    monkeypatch.setenv("AWS_ENDPOINT", "https://s3.example.org")
    provide_credentials()
    assert "AWS_ENDPOINT" not in os.environ


def test_no_proxy_is_asked_for_the_credentials(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    provide_credentials()
    assert os.environ["NO_PROXY"] == "example.org,127.0.0.1"


CLIENTS = {
    "boto3": """
        import boto3
        boto3.client("s3").list_objects_v2(Bucket="fruits")
    """,
    "pyarrow": """
        from spark_jobs.store.root import open_root
        open_root("s3://fruits/store").fs.get_file_info("file")
    """,
    "deltalake": """
        from spark_jobs.store.root import open_root
        from spark_jobs.store.tables import open_table
        open_table(open_root("s3://fruits/store"), "raw_images")
    """,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_signs_with_the_keys_of_the_profile(
    profile: Path, signer: tuple[str, list[str]], client: str
) -> None:
    address, keys = signer
    program = "from resources.aws_credentials import provide_credentials\nprovide_credentials()\ntry:\n"
    program += CLIENTS[client].replace("\n    ", "\n") + "\nexcept Exception as error:\n    print(error)\n"
    subprocess.run(
        [sys.executable, "-c", program.replace("\n    \n", "\n")],
        env={**os.environ, "AWS_ENDPOINT_URL": address, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        timeout=300,
    )
    assert set(keys) == {"AKIAPROGRAM"}
