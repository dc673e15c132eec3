"""Finding, loading and converting the weights that `FRUITS_WEIGHTS` names."""

import hashlib
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from keras.src.applications import mobilenet_v2

from fruits_assets.assets.feature_extractor import _convert as convert_elsewhere
from fruits_assets.model.convert import CONVERSION_JSON, load_model
from fruits_assets.model.weights import Weights, find_weights
from spark_jobs.errors import FruitsError
from spark_jobs.inference import MODEL_BIN, MODEL_XML, compile_ir
from tests.support import WEIGHTS

CONTENT = b"not weights, but a file that can be found"
SHA256 = hashlib.sha256(CONTENT).hexdigest()

# As large as the file of Keras, whose download shows this number in the output of public notebooks.
KERAS_CONTENT = b"1" + bytes(9_406_463)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some weights #1.h5"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("pin", ["", f"#sha256={SHA256}", f"#sha256={SHA256.upper()}"])
def test_a_path_names_its_file_with_or_without_a_pinned_hash(file: Path, pin: str) -> None:
    assert find_weights(f"{file}{pin}") == Weights(str(file), CONTENT, SHA256)


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


class Server:
    """Takes the place of Keras's server: it answers with some bytes, or with an error."""

    def __init__(self, answer: bytes | OSError) -> None:
        self.answer = answer
        self.addresses: list[str] = []

    def __call__(self, address: str, timeout: float) -> BytesIO:
        self.addresses.append(address)
        if isinstance(self.answer, OSError):
            raise self.answer
        return BytesIO(self.answer)


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The place of the ImageNet weights in an empty cache of Keras."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def serve(monkeypatch: pytest.MonkeyPatch, answer: bytes | OSError) -> Server:
    server = Server(answer)
    monkeypatch.setattr("fruits_assets.model.weights.urlopen", server)
    return server


def test_a_failed_download_names_the_variable_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, cached: Path
) -> None:
    serve(monkeypatch, URLError("no route"))
    with pytest.raises(FruitsError, match=r"=imagenet: .*no route.*Set FRUITS_WEIGHTS=embedded"):
        find_weights("imagenet")


def test_imagenet_weights_are_downloaded_once_from_the_address_of_keras(
    monkeypatch: pytest.MonkeyPatch, cached: Path
) -> None:
    server = serve(monkeypatch, KERAS_CONTENT)
    first = find_weights("imagenet")
    assert first == Weights("imagenet", KERAS_CONTENT, hashlib.sha256(KERAS_CONTENT).hexdigest())
    assert find_weights("imagenet") == first
    assert server.addresses == [f"{mobilenet_v2.BASE_WEIGHT_PATH}{cached.name}"]
    assert list(cached.parent.iterdir()) == [cached]


@pytest.mark.parametrize("content", [CONTENT, KERAS_CONTENT + b"1", b""])
def test_a_wrong_file_in_the_cache_of_keras_is_downloaded_again(
    monkeypatch: pytest.MonkeyPatch, cached: Path, content: bytes
) -> None:
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    serve(monkeypatch, KERAS_CONTENT)
    assert find_weights("imagenet").content == KERAS_CONTENT
    assert cached.read_bytes() == KERAS_CONTENT


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", KERAS_CONTENT[:-1], KERAS_CONTENT + b"1"])
def test_a_wrong_download_is_refused_and_does_not_stop_a_later_run(
    monkeypatch: pytest.MonkeyPatch, cached: Path, answer: bytes
) -> None:
    serve(monkeypatch, answer)
    with pytest.raises(FruitsError, match=r"=imagenet: .* has returned .* bytes, and the file has 9,406,464"):
        find_weights("imagenet")
    assert not cached.exists()
    serve(monkeypatch, KERAS_CONTENT)
    assert find_weights("imagenet").content == KERAS_CONTENT


def test_imagenet_weights_can_be_pinned(monkeypatch: pytest.MonkeyPatch, cached: Path) -> None:
    serve(monkeypatch, KERAS_CONTENT)
    weights = find_weights("imagenet")
    assert find_weights(weights.pinned) == weights
    cached.write_bytes(KERAS_CONTENT[::-1])
    with pytest.raises(
        FruitsError, match=rf"^FRUITS_WEIGHTS=imagenet#sha256={weights.sha256}: .*not the pinned"
    ):
        find_weights(weights.pinned)


def test_a_cache_that_cannot_be_written_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, cached: Path
) -> None:
    serve(monkeypatch, KERAS_CONTENT)
    cached.parent.parent.write_text("a file, not a folder")
    with pytest.raises(FruitsError, match="Set KERAS_HOME"):
        find_weights("imagenet")


@pytest.mark.parametrize("setting", ["embedded", "random"])
def test_the_pinned_name_of_weights_finds_them_again(setting: str) -> None:
    weights = find_weights(setting)
    assert find_weights(weights.pinned) == weights
    with pytest.raises(FruitsError, match="not the pinned"):
        find_weights(f"{setting}#sha256=00")


def test_a_file_that_changes_before_its_conversion_is_refused(file: Path, tmp_path: Path) -> None:
    weights = find_weights(str(file))
    file.write_bytes(CONTENT + b" any more")
    with pytest.raises(FruitsError, match=f"#sha256={SHA256}: the file has SHA-256 .*, not the pinned hash"):
        convert_elsewhere(weights, tmp_path)


def test_no_file_of_the_weights_stays_in_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    load_model(find_weights(WEIGHTS))
    assert list(scratch.iterdir()) == []


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
