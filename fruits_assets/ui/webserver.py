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
from fruits_assets.ui.links import QUARANTINE, REPORT_PAGE
from fruits_assets.ui.quarantine_page import quarantine_html
from resources.settings import StoreSettings
from spark_jobs.errors import FruitsError
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import REPORT_FILE

# What a page of this project may load: nothing but itself, and in no frame. https://www.w3.org/TR/CSP3/
_ALONE = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
_OF_QUARANTINE = f"{_ALONE}; form-action 'self'"
# A report comes from the store, which other programs may write. So its scripts are of no origin: they cannot
# give orders to Dagster.
_OF_REPORT = f"{_ALONE}; form-action 'none'; sandbox allow-scripts; script-src 'unsafe-inline'; img-src data:"

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
        own = [Route(QUARANTINE, self._quarantine), Route(REPORT_PAGE, self._report)]
        # Dagster's last route takes every path.
        return [*own, *super().build_routes()]  # type: ignore[no-untyped-call]

    def _quarantine(self, request: Request) -> Response:
        label, find = (request.query_params.get(name, "") for name in ("class", "find"))
        try:
            page = quarantine_html(open_root(self._store), label, find)
        except (FruitsError, OSError) as error:
            return PlainTextResponse(f"The quarantine cannot be shown: {error}", status_code=500)
        return _page(page, _OF_QUARANTINE)

    def _report(self, request: Request) -> Response:
        try:
            page = open_root(self._store).read(REPORT_FILE)
        except FileNotFoundError:
            return PlainTextResponse(
                "There is no report yet. Write it: fruits report, or materialize the asset report.",
                status_code=404,
            )
        except OSError as error:
            return PlainTextResponse(f"The report cannot be shown: {error}", status_code=500)
        return _page(page, _OF_REPORT)

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


def _page(content: str | bytes, policy: str) -> Response:
    """A page, which stays in no cache: its photos may be erased."""
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return HTMLResponse(content, headers=headers)
