"""The assets. Each module holds one, in the order of the pipeline: photos, images, features, PCA, CSV."""

import warnings

import dagster as dg

# Every command would print these once for each asset. Both are pinned by the lock file and held by tests.
warnings.filterwarnings(
    "ignore", message=".*(`backfill_policy`|`observable_source_asset`)", category=dg.BetaWarning
)
