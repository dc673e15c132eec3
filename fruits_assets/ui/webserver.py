"""Dagster's web server, which takes orders from its own pages alone."""

from urllib.parse import urlsplit

from dagster._core.workspace.context import BaseWorkspaceRequestContext, WorkspaceProcessContext
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from fruits_assets.ui.guard import LOOPBACK_NAMES, SameOrigin
from fruits_assets.ui.links import QUARANTINE
from fruits_assets.ui.quarantine_page import quarantine_html
from resources.settings import StoreSettings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root

# Headers of the pages of this project, which have no script. Photos that are erased are in no cache.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}

# Milliseconds between two looks of a page at the state of its assets: the default of `dagster dev`.
_POLL_MILLISECONDS = 2000


class Webserver(DagsterWebserver[WorkspaceProcessContext, BaseWorkspaceRequestContext]):
    """Dagster's web server for the names of this machine and for that of FRUITS_UI_URL, with more pages."""

    def __init__(self, context: WorkspaceProcessContext, settings: StoreSettings) -> None:
        self._url, self._store = settings.ui_url, settings.store
        super().__init__(context, live_data_poll_rate=_POLL_MILLISECONDS)

    def build_middleware(self) -> list[Middleware]:
        # A page that lets its own name lead to this machine (DNS rebinding) has that name as the host.
        hosts = [*LOOPBACK_NAMES, str(urlsplit(self._url).hostname)]
        return [
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(SameOrigin, own=self._url),
            *super().build_middleware(),
        ]

    def build_routes(self) -> list[BaseRoute]:
        own = Route(QUARANTINE, self._quarantine)
        # Dagster's last route takes every path.
        return [own, *super().build_routes()]  # type: ignore[no-untyped-call]

    def _quarantine(self, request: Request) -> Response:
        label, find = (request.query_params.get(name, "") for name in ("class", "find"))
        try:
            page = quarantine_html(open_root(self._store), label, find)
        except (FruitsError, OSError) as error:
            return PlainTextResponse(f"The quarantine cannot be shown: {error}", status_code=500)
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    def make_security_headers(self) -> dict[str, str]:
        return {**super().make_security_headers(), "X-Frame-Options": "DENY"}

    def make_csp_header(self, nonce: str) -> str:
        return f"{super().make_csp_header(nonce).rstrip().rstrip(';')}; frame-ancestors 'none'"

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """Answers queries and mutations by POST. A GET, and so a link, gets the page of GraphiQL alone."""
        if request.method == "GET" and request.query_params.get("query"):
            return PlainTextResponse("Send GraphQL by POST.", status_code=405, headers={"Allow": "POST"})
        response: Response = await super().graphql_http_endpoint(request)
        return response
