"""`fruits run` on S3 as users have it: a profile whose keys end soon, and objects that cannot be read."""

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.faults.s3_proxy import ARCHIVED, DENIED, EXPIRED, Refusal, s3_proxy
from fruits_assets.readers import read_pandas
from spark_jobs.store.root import open_root, s3_endpoint
from tests.s3_server import s3_bucket
from tests.shell import PATIENCE
from tests.support import DAGSTER_YAML, REPOSITORY, WEIGHTS

KEYS_SECONDS = 7.0

# A `credential_process`, whose keys end after some seconds. The name of a key says when it ends.
PROGRAM = f"""
import json, time
from datetime import UTC, datetime
end = int(time.time() + {KEYS_SECONDS})
print(json.dumps({{
    "Version": 1, "AccessKeyId": f"AKIA{{end}}", "SecretAccessKey": "secret", "SessionToken": "token",
    "Expiration": datetime.fromtimestamp(end, UTC).isoformat(),
}}))
"""


@pytest.mark.slow
def test_keys_of_a_profile_are_renewed_in_a_stage_and_a_bad_object_concerns_itself_alone(
    tmp_path: Path, sample_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, set[str]] = defaultdict(set)  # by the stage of the request

    def judge(method: str, path: str, key: str) -> Refusal | None:
        if not re.fullmatch("AKIA[0-9]+", key) or int(key[4:]) < time.time():
            return EXPIRED
        if path.startswith("/fruits/photos/") and method == "GET" and path.endswith(".jpg"):
            keys["photos"].add(key)
            time.sleep(1)  # a network so slow that the stage takes longer than a key lives
            if "archived" in path:
                return ARCHIVED
        if "denied" in path and path.startswith("/fruits/photos/"):
            return DENIED
        return None

    with s3_bucket(tmp_path) as uri:
        photos = sorted(sample_photos.glob("Kiwi/*.jpg"))
        contents = [(f"Kiwi/{number}.jpg", photos[number % 8].read_bytes()) for number in range(400)]
        contents += [(f"Banana/{path.name}", path.read_bytes()) for path in sample_photos.glob("Banana/*")]
        bad = {"Kiwi/archived.jpg": photos[0].read_bytes(), "Kiwi/denied.jpg": photos[1].read_bytes()}
        open_root(f"{uri}/photos").write_many([*contents, *bad.items()])
        (tmp_path / "keys.py").write_text(PROGRAM)
        config = tmp_path / "config"
        config.write_text(f"[profile team]\ncredential_process = {sys.executable} {tmp_path}/keys.py\n")
        home = tmp_path / "dagster"
        home.mkdir()
        (home / "dagster.yaml").write_bytes(DAGSTER_YAML.read_bytes())
        with s3_proxy(judge, s3_endpoint()) as address:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
            environment |= {
                "AWS_ENDPOINT_URL": address,
                "AWS_REGION": "eu-west-3",
                "AWS_PROFILE": "team",
                "AWS_CONFIG_FILE": str(config),
                "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
                "AWS_EC2_METADATA_DISABLED": "true",
                "PYTHONPATH": str(REPOSITORY),
                "DAGSTER_HOME": str(home),
                "FRUITS_IMAGES": f"{uri.replace('s3', 's3a')}/photos",
                "FRUITS_STORE": f"{uri}/store",
                "FRUITS_WEIGHTS": WEIGHTS,
                "FRUITS_SPARK_CORES": "2",
            }
            process = subprocess.run(
                ["fruits", "run", "--json"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
        output = process.stdout + process.stderr
        if "The jars of org.apache.hadoop:hadoop-aws" in output and "can't be downloaded" in output:
            pytest.skip(
                "Spark's S3 jars are not in ~/.cache/fruits and cannot be downloaded from Maven Central"
            )
        assert process.returncode == 0, output
        summary = json.loads(process.stdout.splitlines()[-1])
        assert (summary["images"], summary["quarantined_images"]) == (408, 2)
        assert len(keys["photos"]) >= 2
        reasons = read_pandas(f"{uri}/store", "quarantined_images").set_index("path")["reason"]
        assert "archived in Glacier. Restore it" in reasons["Kiwi/archived.jpg"]
        assert "AWS denies the access. Allow it" in reasons["Kiwi/denied.jpg"]
        assert len(read_pandas(f"{uri}/store", "pca_features_csv")) == 408
