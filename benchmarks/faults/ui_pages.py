"""The pages of Dagster's UI, as the GraphQL queries that they send.

The text of the queries comes from the web app of the installed Dagster, so it is always that of its pages.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.dagster_ui import CODE, DagsterUi

# The connections that a browser opens to a server at once.
CONNECTIONS = 6

# The events of a run that its page asks for at once.
LOG_EVENTS = 1000

_BEGIN = re.compile(r"\b(query|fragment) (\w+)(?: on \w+)?\s*(?:\([^)]*\)\s*)?\{")
_SPREAD = re.compile(r"\.\.\.\s*(?!on\b)(\w+)")


class Query(NamedTuple):
    """A query of the web app by its name, and its variables."""

    name: str
    variables: Mapping[str, Any] = {}


class Loaded(NamedTuple):
    """How a page was loaded: the seconds until its last answer, the size of all answers, and the errors."""

    seconds: float
    megabytes: float
    errors: Sequence[str]


def pages(ui: DagsterUi, *, asset: str, label: str, run: str) -> dict[str, list[Query]]:
    """The queries of each page, by its name: of all assets, an asset by class, a class of it, and a run."""
    code = ui.ask(_CODE, s=CODE)["repositoryOrError"]
    every, one = [node["assetKey"] for node in code["assetNodes"]], {"path": [asset]}
    [checks] = [
        node["assetChecksOrError"]["checks"] for node in code["assetNodes"] if node["assetKey"] == one
    ]
    # Every page asks for the state of the code location. Only the first one asks for its content.
    frame = [Query("CodeLocationStatusQuery"), Query("InstanceWarningQuery"), Query("PermissionsQuery")]
    frame.append(Query("AssetRecordsQuery", {"limit": 1000}))
    location = {"name": CODE["repositoryLocationName"]}
    first = [Query("LocationWorkspaceQuery", location), Query("LocationWorkspaceAssetsQuery", location)]
    of_asset = [*frame, *_live([one]), Query("AssetViewDefinitionQuery", {"assetKey": one})]
    of_classes = [*of_asset, Query("PartitionHealthQuery", {"assetKey": one})]
    of_class = {"assetKey": one, "partitionKey": label}
    kinds = {"eventTypeSelectors": ["MATERIALIZATION", "OBSERVATION", "FAILED_TO_MATERIALIZE"]}
    in_progress = {"statuses": ["STARTED", "STARTING", "SUSPENDED", "CANCELING"]}
    of_run = (
        "RunRootQuery",
        "RunAssetsQuery",
        "RunAssetChecksQuery",
        "RunGroupPanelQuery",
        "RunStepStatsQuery",
    )
    sensors = [{**CODE, "sensorName": sensor["name"]} for sensor in code["sensors"]]
    schedules = [{**CODE, "scheduleName": schedule["name"]} for schedule in code["schedules"]]
    return {
        "catalogue, asset graph": [*frame, *first, *_live(every)],
        "asset": [*of_asset, Query("AssetOverviewMetadataEventsQuery", {"assetKey": one})],
        "classes of an asset": of_classes,
        "class": [
            *of_classes,
            Query("AssetPartitionDetailQuery", of_class),
            Query("AssetPartitionStaleQuery", of_class),
        ],
        "events of an asset": [
            *of_asset,
            Query("FullPartitionsQuery", {"assetKey": one}),
            Query("RecentAssetEventsQuery", {"assetKey": one, "limit": 100, "partitions": [], **kinds}),
        ],
        "checks": [
            *of_asset,
            Query("AssetChecksQuery", {"assetKey": one}),
            *(
                Query("AssetCheckDetailsQuery", {"assetKey": one, "checkName": check["name"], "limit": 31})
                for check in checks[:1]
            ),
        ],
        "dialog Materialize": [
            Query("LaunchAssetLoaderQuery", {"assetKeys": every}),
            Query("LaunchAssetWarningsQuery", {"upstreamAssetKeys": every}),
        ],
        "runs": [
            *frame,
            Query("RunsFeedRootQuery", {"filter": {}, "view": "ROOTS", "limit": 30}),
            Query(
                "RunFeedTabsCountQuery",
                {"queuedFilter": {"statuses": ["QUEUED"]}, "inProgressFilter": in_progress, "view": "RUNS"},
            ),
        ],
        "run": [*frame, *(Query(name, {"runId": run}) for name in of_run)],
        "automation": [
            *frame,
            *(Query("SingleSensorQuery", {"selector": sensor}) for sensor in sensors),
            *(Query("SensorAssetSelectionQuery", {"sensorSelector": sensor}) for sensor in sensors),
            *(Query("SingleScheduleQuery", {"selector": schedule}) for schedule in schedules),
            *(Query("ScheduleAssetSelectionQuery", {"scheduleSelector": each}) for each in schedules),
        ],
    }


_CODE = """query ($s: RepositorySelector!) { repositoryOrError(repositorySelector: $s) { ... on Repository {
  sensors { name } schedules { name }
  assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks { name } } } } } } }"""


def _live(keys: list[Any]) -> list[Query]:
    """The queries that a page with these assets sends every five seconds."""
    live = ("AssetGraphLiveQuery", "AssetStaleStatusDataQuery", "AssetsFreshnessInfoQuery")
    return [Query(name, {"assetKeys": keys}) for name in live]


def load(ui: DagsterUi, queries: Sequence[Query]) -> Loaded:
    """Sends the queries of a page as a browser does: some at once."""
    _web_app()  # it is read once, which takes seconds
    begun = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = list(pool.map(lambda query: _answer(ui, query), queries))
    return _loaded(begun, answers)


def load_log(ui: DagsterUi, run: str) -> Loaded:
    """Reads all events of a run, as the page of the run does after its start."""
    begun, cursor, answers = time.monotonic(), None, list[_Answer]()
    while True:
        query = Query("RunLogsQuery", {"runId": run, "cursor": cursor, "limit": LOG_EVENTS})
        answers.append(_answer(ui, query))
        found = answers[-1].data.get("logsForRun", {})
        if not found.get("hasMore"):
            return _loaded(begun, answers)
        cursor = found["cursor"]


class _Answer(NamedTuple):
    data: Mapping[str, Any]
    size: int
    error: str | None


def _answer(ui: DagsterUi, query: Query) -> _Answer:
    """The answer to a query; the server has a minute for it."""
    try:
        data = ui.ask(_text(query.name), **query.variables)
    except (AssertionError, OSError) as error:
        return _Answer({}, 0, f"{query.name}: {type(error).__name__}: {str(error)[:300]}")
    text = json.dumps(data)
    # Each error that Dagster shows on a page has a stack.
    failed = re.search(r'"message": "((?:[^"\\]|\\.)*)", "stack"', text)
    return _Answer(data, len(text), f"{query.name}: {failed[1][:300]}" if failed else None)


def _loaded(begun: float, answers: Sequence[_Answer]) -> Loaded:
    errors = [answer.error for answer in answers if answer.error]
    return Loaded(time.monotonic() - begun, sum(answer.size for answer in answers) / 1e6, errors)


def _text(name: str) -> str:
    """The text of a query with the fragments that it spreads. Raises `KeyError` for an unknown name."""
    queries, fragments = _web_app()
    texts, left = {name: queries[name]}, [name]
    for known in left:  # the list grows in the loop
        for fragment in _SPREAD.findall(texts[known]):
            if fragment not in texts:
                texts[fragment] = fragments[fragment]
                left.append(fragment)
    return "\n".join(texts.values())


@cache
def _web_app() -> tuple[dict[str, str], dict[str, str]]:
    """The queries and the fragments of the web app, by name."""
    import dagster_webserver

    queries, fragments = dict[str, str](), dict[str, str]()
    for script in Path(dagster_webserver.__file__).with_name("webapp").rglob("*.js"):
        for kind, name, text in _definitions(script.read_text().replace("\\n", "\n")):
            (fragments if kind == "fragment" else queries)[name] = text
    return queries, fragments


def _definitions(script: str) -> Iterator[tuple[str, str, str]]:
    """The definitions of a script, as (kind, name, text): GraphQL stands in it as it is."""
    for found in _BEGIN.finditer(script):
        end, depth = found.end(), 1
        while depth and end < len(script):
            depth += {"{": 1, "}": -1}.get(script[end], 0)
            end += 1
        yield found[1], found[2], script[found.start() : end]
