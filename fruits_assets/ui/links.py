"""Links to the pages that `fruits ui` adds to Dagster's UI, for metadata."""

from urllib.parse import urlencode

import dagster as dg

# The paths of the pages. A link without a host leads to the UI that shows it.
QUARANTINE, REPORT_PAGE = "/fruits/quarantine", "/fruits/report"


def quarantine_page(label: str | None = None) -> dg.UrlMetadataValue:
    """The page of the photos in quarantine, of all classes or of a class."""
    query = f"?{urlencode({'class': label})}" if label else ""
    return dg.MetadataValue.url(f"{QUARANTINE}{query}")


def report_page() -> dg.UrlMetadataValue:
    """The report that was written last."""
    return dg.MetadataValue.url(REPORT_PAGE)
