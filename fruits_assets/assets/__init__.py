"""The assets. Each module holds one, in the order of the pipeline: photos, images, features, PCA, CSV."""

import warnings

import dagster as dg

# Every command would print these, once for each asset. Their versions are pinned, their use is tested.
_BETA = "backfill_policy|observable_source_asset|DataVersionsByPartition"
warnings.filterwarnings("ignore", message=f".*`({_BETA})`", category=dg.BetaWarning)
