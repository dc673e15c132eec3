"""Finding, loading and converting the weights that `FRUITS_WEIGHTS` names."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fruits_assets.model.convert import CONVERSION_JSON, load_model
from fruits_assets.model.weights import Weights, find_weights
from spark_jobs.errors import FruitsError
from spark_jobs.inference import MODEL_BIN, MODEL_XML, compile_ir
from tests.support import WEIGHTS

CONTENT = b"not weights, but a file that can be found"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some weights #1.h5"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("pin", ["", f"#sha256={SHA256}", f"#sha256={SHA256.upper()}"])
def test_a_path_names_its_file_with_or_without_a_pinned_hash(file: Path, pin: str) -> None:
    assert find_weights(f"{file}{pin}") == Weights(str(file), file, SHA256)


def test_a_file_with_another_hash_than_the_pinned_one_is_refused(file: Path) -> None:
    pin = "0" * 64
    with pytest.raises(FruitsError, match=f"^FRUITS_WEIGHTS=.*{pin}: .*{SHA256}, not the pinned"):
        find_weights(f"{file}#sha256={pin}")


@pytest.mark.parametrize("setting", ["no/such/file.h5", "imagnet", "/", ""])
def test_an_unreadable_weights_file_is_refused_with_the_remedy(setting: str) -> None:
    with pytest.raises(FruitsError, match=f"^FRUITS_WEIGHTS={setting} cannot be read .*Set it to imagenet"):
        find_weights(setting)


def test_random_weights_are_untrained_and_the_same_each_time() -> None:
    weights = find_weights("random")
    assert weights == find_weights("random")
    assert not weights.trained
    first, second = load_model(weights).get_weights(), load_model(weights).get_weights()
    assert all(np.array_equal(left, right) for left, right in zip(first, second, strict=True))
    assert np.ptp(first[0]) > 0


def test_a_failed_download_names_the_variable_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(**_: object) -> None:
        raise Exception("URL fetch failure on https://example.invalid: no route")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.applications.MobileNetV2", unreachable)
    with pytest.raises(FruitsError, match=r"=imagenet: .*no route.*Set FRUITS_WEIGHTS=embedded"):
        find_weights("imagenet")


def test_weights_in_the_keras_cache_are_not_downloaded_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cached = tmp_path / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    cached.parent.mkdir()
    cached.write_bytes(CONTENT)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delattr("keras.applications.MobileNetV2")
    assert find_weights("imagenet") == Weights("imagenet", cached, SHA256)


@pytest.mark.parametrize("name", ["text.h5", "text.npz", "other.npz", "empty.h5", "no-suffix"])
def test_a_file_without_the_weights_of_the_model_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "other.npz":
        np.savez(path, kernel=np.zeros(3))
    else:
        path.write_bytes(b"" if name.startswith("empty") else CONTENT)
    with pytest.raises(FruitsError, match=f"^FRUITS_WEIGHTS={path} is not a weights file of MobileNetV2"):
        load_model(find_weights(str(path)))


def test_the_converter_reports_unreadable_weights_in_one_line(file: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "fruits_assets.model.convert", "--out", str(tmp_path / "out")]
    result = subprocess.run([*program, "--weights", f"{file}x"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"FRUITS_WEIGHTS={file}x cannot be read")
    assert len(result.stderr.splitlines()) == 1


def test_the_converted_model_returns_the_features_of_keras(extractor: Path) -> None:
    images = np.random.default_rng(5).uniform(-1, 1, (3, 224, 224, 3)).astype(np.float32)
    network = compile_ir((extractor / MODEL_XML).read_bytes(), (extractor / MODEL_BIN).read_bytes())
    features = np.stack([network(image) for image in images])
    expected = np.asarray(load_model(find_weights(WEIGHTS))(images, training=False))
    assert features.shape == (3, 1280)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert json.loads((extractor / CONVERSION_JSON).read_text())["max_abs_difference"] < 1e-4
