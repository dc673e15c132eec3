"""`fruits ui`: its own pages may change something, pages of other sites may not. Read-only, no page may."""

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
import websockets.exceptions
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from fruits_assets.partitions import fruit_classes, known_classes, register_classes
from fruits_assets.ui.links import QUARANTINE, REPORT_PAGE
from rehearsal.processes import reserved_ports
from spark_jobs.store.root import open_root
from spark_jobs.store.schemas import REPORT_FILE
from tests.dagster_ui import CODE, DagsterUi, dagster_ui
from tests.shell import Shell
from tests.spark_jobs.store.written import commit_class

DELETE = """mutation ($s: RepositorySelector!, $keys: [String!]!, $name: String!) {
  deleteDynamicPartitions(repositorySelector: $s, partitionKeys: $keys, partitionsDefName: $name) {
    __typename } }"""
VARIABLES = {"s": CODE, "keys": ["Kiwi"], "name": fruit_classes.name}
FOREIGN = "http://evil.example"


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("ui"))


@pytest.fixture(scope="module")
def instance(shell: Shell) -> Iterator[dg.DagsterInstance]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(shell.home))
        with dg.DagsterInstance.get() as opened:
            yield opened


@pytest.fixture(scope="module")
def ui(shell: Shell, instance: dg.DagsterInstance) -> Iterator[DagsterUi]:
    with reserved_ports(1) as [port]:
        variables = {**shell.environment, "FRUITS_UI_URL": "https://fruits.example"}
        with dagster_ui(variables, port, shell.home) as served:
            yield served


@pytest.fixture(autouse=True)
def kiwi(instance: dg.DagsterInstance) -> None:
    register_classes(instance, ["Kiwi"])


def send(
    ui: DagsterUi, method: str, path: str, headers: Mapping[str, str], body: str = ""
) -> tuple[int, str, Mapping[str, str]]:
    """The status, the text and the headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", ui.port, timeout=60)
    connection.request(method, path, body, dict(headers))
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, {name.lower(): value for name, value in answer.getheaders()}


def order(ui: DagsterUi, headers: Mapping[str, str]) -> int:
    """The status of the answer to an order to delete a class."""
    body = json.dumps({"query": DELETE, "variables": VARIABLES})
    return send(ui, "POST", "/graphql", {"Content-Type": "application/json", **headers}, body)[0]


def test_the_uis_own_pages_and_programs_may_change_something(
    ui: DagsterUi, instance: dg.DagsterInstance
) -> None:
    own = {"Origin": f"http://127.0.0.1:{ui.port}", "Sec-Fetch-Site": "same-origin"}
    proxied = {"Origin": "https://fruits.example", "Host": "fruits.example", "Sec-Fetch-Site": "same-origin"}
    for headers in (own, proxied, {}):
        register_classes(instance, ["Kiwi"])
        assert order(ui, headers) == 200
        assert known_classes(instance) == []


QUERY = f"query={quote(DELETE)}&variables={quote(json.dumps(VARIABLES))}"


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        # A form, and a script that needs no leave of the server (https://fetch.spec.whatwg.org/#cors-protocol).
        ("POST", f"/graphql?{QUERY}", {"Origin": FOREIGN, "Content-Type": "text/plain"}, ""),
        ("POST", "/graphql", {"Origin": FOREIGN, "Content-Type": "application/graphql"}, DELETE),
        # A page of another program on this machine, a file, and a frame without an origin.
        ("POST", f"/graphql?{QUERY}", {"Origin": "http://localhost:8080"}, ""),
        ("POST", f"/graphql?{QUERY}", {"Origin": "http://127.0.0.1"}, ""),
        ("POST", f"/graphql?{QUERY}", {"Origin": "null"}, ""),
        # A picture, a link, and a browser that does not tell the kind of a request.
        ("GET", f"/graphql?{QUERY}", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, ""),
        ("GET", f"/graphql?{QUERY}", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, ""),
        ("GET", f"/graphql?{QUERY}", {}, ""),
        # A name of a stranger that leads to this machine.
        ("POST", f"/graphql?{QUERY}", {"Host": "evil.example"}, ""),
        ("POST", "/report_asset_materialization/raw_images", {"Origin": FOREIGN}, "{}"),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    ui: DagsterUi, instance: dg.DagsterInstance, method: str, path: str, headers: dict[str, str], body: str
) -> None:
    assert send(ui, method, path, headers, body)[0] in (400, 403, 405)
    assert known_classes(instance) == ["Kiwi"]
    assert instance.get_latest_materialization_event(dg.AssetKey("raw_images")) is None


@pytest.mark.parametrize("origin", [FOREIGN, "http://localhost:8080", "null"])
def test_a_page_of_another_site_opens_no_websocket(ui: DagsterUi, origin: str) -> None:
    address, protocol = f"ws://127.0.0.1:{ui.port}/graphql", Subprotocol("graphql-ws")
    with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
        connect(address, origin=Origin(origin), subprotocols=[protocol])
    own = Origin(f"http://127.0.0.1:{ui.port}")
    with connect(address, origin=own, subprotocols=[protocol]) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv()) == {"type": "connection_ack"}


def test_a_link_opens_a_page_that_no_site_can_frame(ui: DagsterUi) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    status, _, headers = send(ui, "GET", "/runs", link)
    assert (status, headers["x-frame-options"]) == (200, "DENY")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert send(ui, "GET", "/runs", {**link, "Sec-Fetch-Dest": "iframe"})[0] == 403


def test_the_page_of_the_quarantine_comes_from_the_store_and_has_no_script(
    ui: DagsterUi, shell: Shell
) -> None:
    commit_class(open_root(str(shell.store)), "Kiwi", ["Kiwi/<script>.jpg"])
    status, page, headers = send(ui, "GET", f"{QUARANTINE}?class=Kiwi", {})
    assert status == 200
    assert "Kiwi/&lt;script&gt;.jpg" in page
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert headers["cache-control"] == "no-store"
    assert send(ui, "GET", QUARANTINE, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"})[0] == 403


def test_a_report_is_shown_without_any_right_of_the_ui(ui: DagsterUi, shell: Shell) -> None:
    """Whoever can write to the store could write a script into it."""
    assert "fruits report" in send(ui, "GET", REPORT_PAGE, {})[1]
    open_root(str(shell.store)).write(REPORT_FILE, b"<script>fetch('/graphql')</script>")
    status, page, headers = send(ui, "GET", REPORT_PAGE, {})
    assert (status, page) == (200, "<script>fetch('/graphql')</script>")
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "sandbox allow-scripts", "frame-ancestors 'none'"} <= set(policy)
    assert headers["cache-control"] == "no-store"


def test_a_read_only_ui_shows_all_and_changes_nothing(shell: Shell, instance: dg.DagsterInstance) -> None:
    variables = {**shell.environment, "FRUITS_UI_READ_ONLY": "true"}
    with reserved_ports(1) as [port], dagster_ui(variables, port, shell.home, daemon=False) as ui:
        assets: dict[str, Any] = ui.ask("{ assetNodes { assetKey { path } } }")
        assert ["raw_images"] in [node["assetKey"]["path"] for node in assets["assetNodes"]]
        order(ui, {})
        report = send(ui, "POST", "/report_asset_materialization/raw_images", {}, "{}")
        assert report[0] >= 400
    assert known_classes(instance) == ["Kiwi"]
    assert instance.get_latest_materialization_event(dg.AssetKey("raw_images")) is None


def test_a_port_in_use_is_a_sentence(ui: DagsterUi, shell: Shell) -> None:
    output = shell.run("fruits", "ui", "--port", str(ui.port), exits=1)
    assert (
        f"The UI cannot use the port {ui.port} of 127.0.0.1: Address already in use. Name another" in output
    )
