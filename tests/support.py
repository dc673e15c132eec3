"""What several tests do: put an extractor into a store, and run jobs with the usual parameters."""

import hashlib
from pathlib import Path

from fruits_assets.backbone.inference import MODEL_BIN, MODEL_XML, sha256_of
from fruits_assets.store.root import open_root
from fruits_assets.store.schemas import FEATURE_EXTRACTOR
from fruits_assets.store.tables import Pointer, new_directory, publish


def publish_extractor(store: str, extractor: Path) -> Pointer:
    """Puts a converted extractor into a store as the asset does, and returns its pointer."""
    root = open_root(store)
    directory = f"{new_directory(FEATURE_EXTRACTOR, 'tests')}/model"
    xml, weights = ((extractor / name).read_bytes() for name in (MODEL_XML, MODEL_BIN))
    root.write_many([(f"{directory}/{MODEL_XML}", xml), (f"{directory}/{MODEL_BIN}", weights)])
    details = {
        "weights": "tests",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "trained": False,
        "ir_sha256": sha256_of(xml, weights),
        "max_abs_difference": 0.0,
        "versions": {},
    }
    pointer = Pointer(None, directory, details["ir_sha256"][:16], details=details)
    publish(root, FEATURE_EXTRACTOR, [pointer])
    return pointer
