"""The charts of a report, as specifications of Vega-Lite. The page adds their data, by name, and colours."""

from collections.abc import Sequence
from typing import Any

# altair takes a second to import, so the functions import it.

POINTS, SHARES, TIMES = "points", "shares", "times"

# The components between which a person chooses for the axes of the scatter.
AXES = 6


def vega_lite_version() -> str:
    """The version of Vega-Lite of the specifications, as vl-convert names it: `6.4`."""
    from altair import SCHEMA_VERSION

    return ".".join(SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def scree() -> dict[str, Any]:
    """The share of the variance that each component explains, and the shares up to it.

    Its data `SHARES` have `component`, `share` and `together`, 0 to 1.
    """
    import altair as alt

    component = alt.X("component:O", title="component").axis(labelAngle=0, labelOverlap=True)
    tooltip = [
        alt.Tooltip("component:O"),
        alt.Tooltip("share:Q", format=".1%"),
        alt.Tooltip("together:Q", format=".1%", title="up to it"),
    ]
    base = alt.Chart(alt.NamedData(SHARES)).encode(x=component, tooltip=tooltip)
    share = alt.Y("share:Q", title="share of the variance").axis(format="%")
    bars = base.mark_bar(color="#4c956c").encode(y=share)
    line = base.mark_line(point=True, color="#bc4749").encode(y="together:Q")
    return _spec((bars + line).properties(height=260))


def scatter(components: int) -> dict[str, Any]:
    """Photos by two of their first components. Pointing at one shows it.

    Its data `POINTS` have `pc1`, `pc2`, ..., `class`, `file` and the number of the `photo`; the page adds the
    `image`. Two menus choose the components, and a field the classes to stand out.
    """
    import altair as alt

    names = [f"pc{number + 1}" for number in range(min(components, AXES))]
    across, up = (
        alt.param(
            name, value=names[min(start, len(names) - 1)], bind=alt.binding_select(options=names, name=text)
        )
        for name, start, text in (("across", 0, "across "), ("up", 1, "up "))
    )
    found = alt.param("found", value="", bind=alt.binding(input="search", name="class ", placeholder="all"))
    stands_out = "found == '' || indexof(lower(datum['class']), lower(found)) >= 0"
    chart = (
        alt.Chart(alt.NamedData(POINTS))
        .transform_calculate(x="datum[across]", y="datum[up]")
        .mark_circle(size=45)
        .encode(
            x=alt.X("x:Q", title=None).scale(zero=False),
            y=alt.Y("y:Q", title=None).scale(zero=False),
            color=alt.Color("class:N", legend=None).scale(scheme="tableau20"),
            opacity=alt.when(stands_out).then(alt.value(0.8)).otherwise(alt.value(0.06)),
            order=alt.Order("rank:Q"),
            tooltip=[alt.Tooltip(f"{name}:N") for name in ("image", "class", "file")],
        )
        .transform_calculate(rank=f"{stands_out} ? 1 : 0")
        .add_params(across, up, found)
        .properties(height=480)
        .interactive()
    )
    return _spec(chart)


def stage_times(stages: Sequence[str], runs: int) -> dict[str, Any]:
    """The seconds of each stage of some runs.

    Its data `TIMES` have `run`, `stage`, the `order` of the stage, and `seconds`.
    """
    import altair as alt

    chart = (
        alt.Chart(alt.NamedData(TIMES))
        .mark_bar()
        .encode(
            x=alt.X("seconds:Q", title="seconds"),
            y=alt.Y("run:N", title=None, sort=None).axis(labelLimit=260),
            color=alt.Color("stage:N", sort=list(stages), title=None)
            .scale(scheme="tableau10")
            .legend(orient="top", columns=2),
            order=alt.Order("order:Q"),
            tooltip=["run:N", "stage:N", alt.Tooltip("seconds:Q", format=",.1f")],
        )
        .properties(height=28 * runs)
    )
    return _spec(chart)


def _spec(chart: Any) -> dict[str, Any]:
    spec: dict[str, Any] = chart.properties(width="container").to_dict()
    return {name: value for name, value in spec.items() if name != "config"}
