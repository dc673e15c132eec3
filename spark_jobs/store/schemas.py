"""The names of the tables and outputs of the store, and the schemas of the Delta tables."""

import pyarrow as pa

FRUIT_PHOTOS = "fruit_photos"
RAW_IMAGES = "raw_images"
QUARANTINED_IMAGES = "quarantined_images"
FEATURE_EXTRACTOR = "feature_extractor"
MOBILENET_FEATURES = "mobilenet_features"
PCA_MODEL = "pca_model"
PCA_FEATURES_CSV = "pca_features_csv"
FEATURE_QUALITY = "feature_quality"
ENVIRONMENT_COMPARISON = "environment_comparison"
REPORT = "report"
REPORT_FILE = f"{REPORT}/report.html"

# The folder of an output's versions and pointers, where it is not the name of the output. `pca_features_csv/`
# holds the current CSVs and nothing else, so that any reader of CSVs can take the whole folder.
VERSION_FOLDERS = {PCA_FEATURES_CSV: "pca_features_csv_versions"}

# The version of the columns below. A release refuses tables of a later version.
COLUMNS_VERSION = 3

SCHEMAS: dict[str, pa.Schema] = {
    RAW_IMAGES: pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.string()),
            ("content", pa.binary()),
            ("sha256", pa.string()),
            ("bytes", pa.int64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("format", pa.string()),
            ("modified", pa.timestamp("us", tz="UTC")),
            ("etag", pa.string()),
            ("sha256_stored", pa.string()),
            ("input", pa.binary()),
            ("sha256_input", pa.string()),
            ("preprocessing", pa.string()),
        ]
    ),
    QUARANTINED_IMAGES: pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.string()),
            ("sha256", pa.string()),
            ("bytes", pa.int64()),
            ("reason", pa.string()),
            ("modified", pa.timestamp("us", tz="UTC")),
            ("etag", pa.string()),
        ]
    ),
    MOBILENET_FEATURES: pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.string()),
            ("sha256", pa.string()),
            ("features", pa.list_(pa.float32())),
        ]
    ),
}

_DESCRIPTIONS = {
    "path": "Path of the photo, relative to FRUITS_IMAGES.",
    "label": "Fruit class: the name of the folder that the photo is in.",
    "content": "The bytes of the photo, without metadata.",
    "sha256": "SHA-256 of the file as it came, in hexadecimal.",
    "sha256_stored": "SHA-256 of the content, in hexadecimal; none in rows of an earlier release.",
    "input": "The input of the model of a large photo: 224 x 224 pixels as a lossless WebP; else none.",
    "sha256_input": "SHA-256 of the input, in hexadecimal.",
    "preprocessing": "Version of the steps from the photo to the input.",
    "bytes": "Size of the file as it came, in bytes.",
    "width": "Width in pixels, after the EXIF orientation is applied.",
    "height": "Height in pixels, after the EXIF orientation is applied.",
    "format": "Format of the content: JPEG, PNG, ...",
    "modified": "Modification time of the file or object.",
    "etag": "ETag of the object on S3; none on disk.",
    "reason": "Reason why the photo was refused.",
    "features": "MobileNetV2 features, average-pooled: 1280 float32.",
}


def described(table: str) -> dict[str, tuple[str, str]]:
    """The columns of a table as {name: (type, description)}."""
    return {column.name: (str(column.type), _DESCRIPTIONS[column.name]) for column in SCHEMAS[table]}
