"""The assets: photos, images, quarantine, extractor, features, PCA, CSV and reports, one in each module."""

import warnings

import dagster as dg

# Every command would print these warnings, once for each asset. The versions of these beta features are
# pinned, and tests use the features.
_BETA = r"backfill_policy|observable_source_asset|DataVersionsByPartition|\w*CodeReference\w*"
warnings.filterwarnings("ignore", message=f".*`({_BETA})`", category=dg.BetaWarning)
