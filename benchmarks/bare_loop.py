"""The limit: decode, resize and infer in a plain loop, one process a core, no Spark and no store.

python -m benchmarks.bare_loop --photos DIR --ir DIR --cores 2
"""

import json
import multiprocessing
import time
from argparse import ArgumentParser
from pathlib import Path

STARTED = time.perf_counter()


def extract(job: tuple[list[str], str]) -> int:
    """Features of some photos, thrown away; the number of vectors."""
    import pyarrow as pa

    from fruits_assets.backbone.inference import MODEL_BIN, MODEL_XML, compile_ir
    from fruits_assets.jobs.extract_features import features_of

    paths, ir = job
    extractor = compile_ir((Path(ir) / MODEL_XML).read_bytes(), (Path(ir) / MODEL_BIN).read_bytes())
    done = 0
    for start in range(0, len(paths), 128):
        contents = [Path(path).read_bytes() for path in paths[start : start + 128]]
        done += len(features_of(pa.array(contents, pa.binary()), extractor))
    return done


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--ir", required=True)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    paths = sorted(str(path) for path in Path(arguments.photos).rglob("*.jpg"))
    jobs = [(paths[core :: arguments.cores], arguments.ir) for core in range(arguments.cores)]
    with multiprocessing.get_context("spawn").Pool(arguments.cores) as pool:
        images = sum(pool.map(extract, jobs))
    print(json.dumps({"images": images, "features": time.perf_counter() - STARTED}))


if __name__ == "__main__":
    main()
