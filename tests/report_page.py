"""A report as a browser sees it: its elements, texts and pictures."""

import base64
import io
import json
from html.parser import HTMLParser
from typing import Any

from PIL import Image


class ReportPage(HTMLParser):
    """The parsed HTML of a report.

    `elements` are all (tag, attributes), `scripts` the texts of scripts and styles by tag, type or id, and
    `text` what a person reads.
    """

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str, str]] = []
        self.text = ""
        self._inside = ""
        self.feed(html.decode())
        data = dict(self.scripts)
        self._pictures: list[str] = json.loads(data["pictures"])
        self.charts: dict[str, Any] = json.loads(data["charts"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = (dict(attrs).get("id") or tag) if tag in ("script", "style") else ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts.append((self._inside, data))
        else:
            self.text += f" {data.strip()}"

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def pictures(self) -> list[Image.Image]:
        """All thumbnails of the page."""
        return [Image.open(io.BytesIO(base64.b64decode(text))) for text in self._pictures if text]

    def picture(self, path: str) -> bytes:
        """The thumbnail of a photo, by its path."""
        [number] = {
            attributes["data-photo"] or ""
            for tag, attributes in self.elements
            if tag == "img" and attributes.get("alt") == path
        }
        return base64.b64decode(self._pictures[int(number)])

    @property
    def files(self) -> set[str]:
        """The paths of the photos that the page shows."""
        return {
            attributes["alt"] or ""
            for tag, attributes in self.elements
            if tag == "img" and attributes.get("alt")
        }
