"""Refuses what a page of another site sends to the UI, through the browser of a person who may use it.

Dagster's web server looks at neither Host nor Origin, and its UI has no login: without this, any page that is
open in the same browser could start runs or delete partitions.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


class SameOrigin:
    """ASGI middleware that passes requests of the UI's own pages, and of programs that are no browser.

    `own` is the address of the UI behind a proxy, whose origin its pages have. A browser names the origin in
    the header `Origin` of a POST, of a request to another origin and of a WebSocket
    (https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Origin), and the kind of each request in
    `Sec-Fetch-Site` and `Sec-Fetch-Dest` (https://www.w3.org/TR/fetch-metadata/).
    """

    def __init__(self, app: ASGIApp, own: str) -> None:
        self.app, self.own = app, _origin(own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_own(scope):
            refusal = PlainTextResponse("A page of another site may not send this request.", status_code=403)
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        if origin := headers.get("origin"):
            return _origin(origin)[1] == headers["host"].lower() or _origin(origin) == self.own
        if headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
            return True
        # A link from elsewhere may open a page of the UI, but not in a frame.
        return (
            scope["type"] == "http" and scope["method"] == "GET" and headers["sec-fetch-dest"] == "document"
        )


def _origin(url: str) -> tuple[str, str]:
    """The scheme of an address, and its host with its port."""
    parts = urlsplit(url.lower())
    return parts.scheme, parts.netloc
