"""The examples in the documentation that read a store."""

import re

from tests.support import REPOSITORY

PAGES = ("README.md", "docs/outputs.md")


def examples(language: str) -> dict[str, str]:
    """The code blocks of the pages about a store, by page and number."""
    found = {}
    for page in PAGES:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)):
            found[f"{page} {number}"] = block
    return found


# The long tests run the example with Delta Lake's connector.
PYTHON = {
    name: block
    for name, block in examples("python").items()
    if "/data/store" in block and 'format("delta")' not in block
}
SQL = {name: block for name, block in examples("sql").items() if "delta_scan" in block}
