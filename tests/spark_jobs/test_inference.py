"""The features of one photo on processors with different instruction sets."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fruits_assets.samples import copy_samples
from spark_jobs.inference import MODEL_BIN, MODEL_XML

# Features of the sample photos are between 0 and 3.7. The largest difference that was found is 2.5e-6.
BOUND = 1e-5

# oneDNN, OpenVINO's library of kernels, uses no newer instructions than this environment variable names
# (https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html), and no others than those of
# the processor. It reads the variable once in a process.
INSTRUCTION_SETS = ("SSE41", "AVX", "AVX2", "AVX512_CORE")

PROGRAM = f"""
import sys
from pathlib import Path
import numpy as np
from spark_jobs.inference import compile_ir
from spark_jobs.photos.images import decode
from spark_jobs.photos.model_input import model_input

model, photos, out = map(Path, sys.argv[1:])
network = compile_ir((model / "{MODEL_XML}").read_bytes(), (model / "{MODEL_BIN}").read_bytes())
images = [decode(photo.read_bytes(), 10**9).image for photo in sorted(photos.rglob("*.jpg"))]
np.save(out, np.stack([network(model_input(image)) for image in images]))
"""


def features(model: Path, photos: Path, out: Path, instruction_set: str) -> NDArray[np.float32]:
    """The features of photos by a process that uses an instruction set, the newest one if it is empty."""
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(photos), str(out)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instruction_set or "DEFAULT"},
        check=True,
    )
    loaded: NDArray[np.float32] = np.load(out)
    return loaded


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction sets are those of x86-64")
def test_features_of_processors_with_different_instruction_sets_are_nearly_equal(
    extractor: Path, tmp_path: Path
) -> None:
    copy_samples(tmp_path / "photos", images=4)
    found = {
        name: features(extractor, tmp_path / "photos", tmp_path / f"{name}.npy", name)
        for name in ("", *INSTRUCTION_SETS)
    }
    # Without this difference, the variable had no effect, and the bound would hold for equal instructions.
    assert not np.array_equal(found["SSE41"], found[""])
    for name, values in found.items():
        assert np.abs(values - found[""]).max() < BOUND, name
