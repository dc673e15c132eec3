"""The bare loop: the work of each stage in plain Python processes, one for each core, without Spark.

Its stages are: read, hash and decode; decode, resize and infer; sums and eigenvectors; projection and one
CSV. The results of a stage stay in memory for the next stage. Prints one JSON object: the seconds of each
stage.

    python -m benchmarks.bare_loop --photos DIR --ir DIR --cores 2
"""

import hashlib
import json
import multiprocessing
import sys
import time
from argparse import ArgumentParser
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

STARTED = time.perf_counter()
CHUNK = 128  # photos in a unit of work: small enough that all processes end at about the same time


def warm(ready: Any) -> None:
    """Initializes a process of the pool: imports the job, and waits until all processes are ready."""
    import spark_jobs.extract_features  # noqa: F401

    ready.wait()


def ingest(paths: list[str]) -> list[bytes]:
    """Reads, hashes and decodes photos; returns their contents."""
    from spark_jobs.photos.images import decode

    contents = [Path(path).read_bytes() for path in paths]
    for content in contents:
        hashlib.sha256(content).hexdigest()
        decode(content, sys.maxsize)
    return contents


@lru_cache
def extractor(ir: str) -> Any:
    """The extractor of the folder `ir`, compiled once in each process."""
    from spark_jobs.inference import MODEL_BIN, MODEL_XML, compile_ir

    return compile_ir((Path(ir) / MODEL_XML).read_bytes(), (Path(ir) / MODEL_BIN).read_bytes())


def extract(job: tuple[list[bytes], str]) -> Any:
    """The features of n photos, (n, 1280) float32. `job` is their contents and the folder of the IR."""
    import pyarrow as pa

    from spark_jobs.extract_features import features_of

    contents, ir = job
    columns = {"path": [""] * len(contents), "content": pa.array(contents, pa.binary())}
    photos = pa.RecordBatch.from_pydict(columns)
    [(_, features)] = features_of([photos], extractor(ir))
    return features


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--ir", required=True)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()

    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    from benchmarks.photo_sets import photos_in
    from spark_jobs.dimensions import DEFAULT_COMPONENTS
    from spark_jobs.fit_pca import decompose, moments_of

    paths = [str(path) for path in photos_in(Path(arguments.photos))]
    seconds: dict[str, float] = {}
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(arguments.cores + 1)
    with context.Pool(arguments.cores, warm, (ready,)) as pool:
        ready.wait()
        seconds["start"] = time.perf_counter() - STARTED
        begun = time.perf_counter()
        chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
        contents = pool.map(ingest, chunks, chunksize=1)
        seconds["ingest"] = time.perf_counter() - begun
        begun = time.perf_counter()
        jobs = [(batch, arguments.ir) for batch in contents]
        features = np.concatenate(pool.map(extract, jobs, chunksize=1))
        seconds["features"] = time.perf_counter() - begun
    begun = time.perf_counter()
    model = decompose(moments_of(features), DEFAULT_COMPONENTS)
    seconds["pca_fit"] = time.perf_counter() - begun
    begun = time.perf_counter()
    columns = (features.astype(np.float64) @ model.components).T
    table = pa.table({"path": paths, **{f"pc{number + 1}": column for number, column in enumerate(columns)}})
    with TemporaryFile() as file:
        pyarrow.csv.write_csv(table, file)
    seconds["csv"] = time.perf_counter() - begun
    seconds["read_features"] = seconds["ingest"] + seconds["features"]
    print(json.dumps({"images": len(features), **seconds, "whole": time.perf_counter() - STARTED}))


if __name__ == "__main__":
    main()
