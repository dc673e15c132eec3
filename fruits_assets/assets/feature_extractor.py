"""`feature_extractor`: MobileNetV2 without its top, in the format that the executors run."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg

from fruits_assets.decorators import pipeline_asset
from fruits_assets.figures import rounded
from fruits_assets.model.convert import CONVERSION_JSON, converter_versions
from fruits_assets.model.weights import Weights, find_weights
from resources.scratch import scratch_folder
from resources.settings import Settings
from spark_jobs.errors import FruitsError
from spark_jobs.inference import MODEL_BIN, MODEL_XML, sha256_of
from spark_jobs.store.pointers import current_one, new_directory, publish
from spark_jobs.store.root import Root, open_root
from spark_jobs.store.schemas import FEATURE_EXTRACTOR
from spark_jobs.store.versions import Version, combined_version

# Largest allowed difference between a feature of OpenVINO and of Keras; float32 rounding gives 1e-5.
MAX_DIFFERENCE = 1e-4

# The details of the extractor's version.
_DETAILS = {"weights", "weights_sha256", "trained", "ir_sha256", "max_abs_difference", "versions"}


@pipeline_asset(
    name=FEATURE_EXTRACTOR,
    group="features",
    kinds={"tensorflow", "openvino"},
    code_version="1",
    description=(
        "MobileNetV2 without its top, average-pooled, with the weights that FRUITS_WEIGHTS names. Keras's "
        "model is converted to OpenVINO IR in float32, and converted again only when weights or versions "
        "change."
    ),
    checks={
        "matches_keras": "OpenVINO and Keras compute the same features of probe images.",
        "trained_weights": "The weights were trained, not drawn at random.",
    },
    blocking={"matches_keras"},
)
def feature_extractor(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    weights, versions = find_weights(settings.weights), converter_versions()
    store = open_root(settings.store)
    data_version = _version(weights, versions)
    current = whole_extractor(store)
    if current is None or current.data_version != data_version:
        context.log.info(f"Converting MobileNetV2 with the weights {weights.name!r} to OpenVINO IR")
        with TemporaryDirectory(dir=scratch_folder()) as folder:
            xml, weights_bin, max_difference = _convert(weights, Path(folder))
        directory = f"{new_directory(FEATURE_EXTRACTOR, context.run.run_id)}/model"
        store.write(f"{directory}/{MODEL_XML}", xml)
        store.write(f"{directory}/{MODEL_BIN}", weights_bin)
        details = {
            "weights": weights.name,
            "weights_sha256": weights.sha256,
            "trained": weights.trained,
            "ir_sha256": sha256_of(xml, weights_bin),
            "max_abs_difference": max_difference,
            "versions": versions,
        }
        current = Version(label=None, directory=directory, data_version=data_version, details=details)
        publish(store, FEATURE_EXTRACTOR, [current])
    difference = current.details["max_abs_difference"]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(data_version),
        metadata={
            **current.details,
            "max_abs_difference": rounded(difference),
            "store_path": dg.MetadataValue.path(store.uri_of(current.directory)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="matches_keras",
                passed=difference <= MAX_DIFFERENCE,
                metadata={"max_abs_difference": rounded(difference), "allowed": MAX_DIFFERENCE},
            ),
            dg.AssetCheckResult(
                check_name="trained_weights",
                passed=current.details["trained"],
                severity=dg.AssetCheckSeverity.WARN,
                description=f"The weights are {current.details['weights']!r}.",
            ),
        ],
    )


def extractor_version(setting: str) -> str:
    """The data version of the extractor with the weights that a value of FRUITS_WEIGHTS names.

    Raises the errors of `find_weights`.
    """
    return _version(find_weights(setting), converter_versions())


def _version(weights: Weights, versions: Mapping[str, str]) -> str:
    return combined_version(weights.sha256, json.dumps(versions, sort_keys=True))


def whole_extractor(store: Root) -> Version | None:
    """The current extractor; None if there is none, or if its pointer or a file of it is lost or damaged."""
    with suppress(FruitsError, FileNotFoundError):
        if current := current_one(store, FEATURE_EXTRACTOR):
            xml, weights_bin = (store.read(f"{current.directory}/{name}") for name in (MODEL_XML, MODEL_BIN))
            if current.details.keys() >= _DETAILS and current.details["ir_sha256"] == sha256_of(
                xml, weights_bin
            ):
                return current
    return None


def _convert(weights: Weights, out: Path) -> tuple[bytes, bytes, float]:
    """Returns the IR's topology and weights, and its largest absolute difference from Keras.

    A process of its own converts the model: when it ends, TensorFlow's memory is free again. It finds the
    weights again, and refuses a file that has changed since.
    """
    program = [sys.executable, "-m", "fruits_assets.model.convert"]
    command = [*program, "--weights", weights.pinned, "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        # Dagster's UI shows the cause below the message.
        raise FruitsError(f"The conversion of the feature extractor failed: {last_line}") from RuntimeError(
            result.stderr[-4000:]
        )
    difference = json.loads((out / CONVERSION_JSON).read_text())["max_abs_difference"]
    return (out / MODEL_XML).read_bytes(), (out / MODEL_BIN).read_bytes(), difference
