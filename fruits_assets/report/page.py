"""The HTML of a report: one file that loads nothing, and in which no text of the store can become a program.

Jinja escapes each text. The page's own policy (https://www.w3.org/TR/CSP3/) forbids all requests, and all
scripts and styles but those of this module, which it knows by their SHA-256.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fruits_assets.report.charts import vega_lite_version
from spark_jobs.wording import visible

_FOLDER = Path(__file__).parent

# A text of the store is cut to this length: a path can have 4,096 bytes.
_LONGEST = 160


def render(values: Mapping[str, Any]) -> bytes:
    """The HTML of a report, in UTF-8, from the values that `page.html.jinja` names."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    # Between <script> and </script>, HTML knows no escapes: https://html.spec.whatwg.org/#script-data-state
    texts = {
        "style": (_FOLDER / "page.css").read_text(encoding="utf-8"),
        "library": _library(),
        "program": (_FOLDER / "page.js").read_text(encoding="utf-8"),
    }
    assert not any(end in text.lower() for text in texts.values() for end in ("</s", "<!--", "\r"))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(texts['style'])}; script-src {_hash(texts['library'])} {_hash(texts['program'])}"
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FileSystemLoader(_FOLDER), trim_blocks=False
    )
    environment.filters["plain"] = plain
    template = environment.get_template("page.html.jinja")
    code = {name: Markup(text) for name, text in texts.items()}
    return template.render(**values, **code, policy=policy).encode("utf-8", "replace")


def plain(text: str, longest: int = _LONGEST) -> str:
    """A text without invisible characters, and with an ellipsis in its middle if it is long."""
    text = visible(text).replace("\n", "\\n")
    if len(text) <= longest:
        return text
    end = longest // 2
    return f"{text[: longest - end - 1]}…{text[-end:]}"


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which sets `window.vegaEmbed`."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vega_lite_version())
    # Inside of a string or a regular expression of JavaScript, both mean the same.
    return bundle.replace("</s", "<\\/s").replace("<!--", "<\\!--")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
