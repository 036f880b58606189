"""The report's charts, in altair: each draws the plain data of its family, where what is shown was decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import altair as alt

from remora.reporting.search_report.ablation import Ablation
from remora.reporting.search_report.axes import MOST_TICKS, Importances, Parallel
from remora.reporting.search_report.beside import Beside
from remora.reporting.search_report.curves import RANKS, RungCurves, StageCurves
from remora.reporting.search_report.drawing import BEST, CARD, FAINT, RANK, RULE, STATE, VALUES, WORST, Drawing
from remora.reporting.search_report.graph import StageGraph
from remora.reporting.search_report.timeline import Timeline
from remora.reporting.search_report.tradeoffs import PRICES, Tradeoff
from remora.reporting.search_report.wording import figure, priced, span

MOST_LABELS = 40
"""Leaves of a graph that are named; the others have tooltips."""
WIDE, GAP = 760, 56
LETTER = 8
"""Of a heading in bold, at most."""
SHORT, EXACT = "format(datum.value, '~s')", "format(datum.value, '~g')"
"""Labels that are each formatted by itself. Vega has one format for an axis: 200 would be 0.2k beside 1k, and where all
figures are 85.5 its digits would follow from a range of 0."""


def bars(found: Ablation, metrics: Mapping[str, str]) -> Drawing:
    """A panel a benchmark, a bar a value."""
    rows = [
        {
            "panel": f"{b.benchmark} ({metrics[b.benchmark]})",
            "value": b.value,
            "figure": b.figure,
            "low": b.low,
            "high": b.high,
            "said": figure(b.figure),
            "tip": f"{found.axis} {b.value}: {b.benchmark} {span(b.figure, b.low, b.high)}",
        }
        for b in found.bars
    ]
    panels = list(dict.fromkeys(str(row["panel"]) for row in rows))
    colours = [VALUES[i % len(VALUES)] for i in range(len(found.values))]
    x = alt.X("value:N", sort=list(found.values), title=None, axis=None)
    scale, legend = alt.Scale(domain=list(found.values), range=colours), alt.Legend(title=found.axis)
    colour = alt.Color("value:N", scale=scale, legend=legend)
    width = max(44 * len(found.values), *(LETTER * len(panel) for panel in panels))
    base = alt.Chart().encode(x=x, description="tip:N")
    layers = alt.layer(
        base.mark_bar(width={"band": 0.84}).encode(y=alt.Y("figure:Q", title=None), color=colour),
        base.mark_rule(color=FAINT, strokeWidth=1.5).encode(y="low:Q", y2="high:Q"),
        base.mark_text(dy=-5, baseline="bottom").encode(y="high:Q", text="said:N"),
        # Room for the text: what stands out of a panel moves its heading.
        alt.Chart().mark_point(opacity=0).transform_calculate(top="1.12 * datum.high").encode(y="top:Q"),
        data=_data(rows),
    ).properties(width=width, height=170)
    faceted = layers.facet(
        facet=alt.Facet("panel:N", sort=panels, title=None), columns=max(1, (WIDE + GAP) // (width + GAP))
    )
    return faceted.resolve_scale(y="independent").properties(bounds="flush", spacing=GAP)


def scatter(found: Tradeoff, ranks: Mapping[str, str]) -> Drawing:
    """Figures with their intervals by a cost; the Pareto front as a stair."""
    rows = [
        {
            "variant": p.variant,
            "cost": p.cost,
            "figure": p.figure,
            "low": p.low,
            "high": p.high,
            "rank": ranks[p.variant],
            "tip": f"{p.variant}: {span(p.figure, p.low, p.high)}, {priced(found.cost, p.cost)}"
            + (", on the Pareto front" if p.front else ""),
        }
        for p in found.points
    ]
    least, most = found.points[0].cost, found.points[-1].cost
    kind: Literal["log", "linear"] = "log" if most > 10 * least else "linear"
    x = alt.X("cost:Q", title=PRICES[found.cost], scale=alt.Scale(type=kind, zero=False, nice=True, padding=16))
    small = most < 100  # seconds or GiB, of which nobody says "100m"
    x = x.axis(format="~g" if small else "~s", tickCount=5, labelExpr="replace(datum.label, 'G', 'B')")
    y = alt.Y("figure:Q", title=found.benchmark, scale=alt.Scale(zero=False))
    best = [row for row, p in zip(rows, found.points, strict=True) if p.front]
    stair = [*best, {**best[-1], "cost": most}]
    base = alt.Chart(_data(rows)).encode(x=x, color=_ranks(ranks[p.variant] for p in found.points), description="tip:N")
    return alt.layer(
        alt.Chart(_data(stair)).mark_line(interpolate="step-after", color=FAINT, strokeDash=[4, 3]).encode(x=x, y=y),
        base.mark_rule(opacity=0.45).encode(
            y=alt.Y("low:Q", title=found.benchmark, scale=alt.Scale(zero=False)), y2="high:Q"
        ),
        base.mark_circle(size=64, opacity=1, stroke=CARD, strokeWidth=1).encode(y=y),
    ).properties(width=300, height=230)


def learning(found: StageCurves) -> Drawing:
    """Training loss by samples, a line a stage run; validations as points on a dashed line."""
    losses, held = [], []
    for i, curve in enumerate(sorted(found.curves, key=lambda c: -RANKS.index(c.rank))):
        users = curve.variants[0] if len(curve.variants) == 1 else f"{len(curve.variants)} variants"
        about = {"run": curve.run.name, "rank": curve.rank, "order": i}
        tip = f"{curve.run.name} ({users}): {curve.run.taken:,} of {curve.run.steps:,} steps"
        losses += [{**about, "samples": p.samples, "loss": p.loss, "tip": tip} for p in curve.run.curve]
        held += [
            {**about, "samples": p.samples, "loss": p.loss, "tip": f"{tip}; validation {p.loss:.4f}"}
            for p in curve.run.validations
        ]
    x = alt.X("samples:Q", title=f"samples of {found.stage}", axis=alt.Axis(labelExpr=SHORT, tickCount=5))
    y = alt.Y("loss:Q", title="loss (nats a token)", scale=alt.Scale(zero=False))
    colour, detail = _ranks(c.rank for c in found.curves), alt.Detail(["order:Q", "run:N"])
    layers = [
        alt.Chart(_data(losses))
        .mark_line(strokeWidth=1.6, opacity=0.85)
        .encode(x=x, y=y, color=colour, detail=detail, description="tip:N")
    ]
    if held:
        points = alt.Chart(_data(held)).encode(x=x, y=y, color=colour, detail=detail, description="tip:N")
        layers += [points.mark_line(strokeDash=[3, 3], strokeWidth=1), points.mark_point(size=34, shape="diamond")]
    return alt.layer(*layers).properties(width=320, height=220)


def rungs(found: RungCurves) -> Drawing:
    """Values at the rungs, a line a variant."""
    rows = [
        {
            "variant": p.variant,
            "share": p.share,
            "value": p.value,
            "rank": p.rank,
            "tip": f"{p.variant}: {found.figure} {p.value:.4g} at {p.share:.0%}" + (p.decision and f", {p.decision}"),
        }
        for p in found.points
    ]
    shares = sorted({p.share for p in found.points})
    x = alt.X("share:Q", title=f"share of {found.stage}", scale=alt.Scale(type="log", nice=False, padding=14))
    base = alt.Chart(_data(rows)).encode(
        x=x.axis(values=shares, format=".0%"),
        y=alt.Y("value:Q", title=found.figure, scale=alt.Scale(zero=False)),
        color=_ranks(p.rank for p in found.points),
        detail="variant:N",
        description="tip:N",
    )
    return alt.layer(base.mark_line(strokeWidth=1.2), base.mark_circle(size=46, opacity=1)).properties(
        width=320, height=220
    )


def threads(found: Parallel) -> Drawing:
    """A column an axis, a line a variant, coloured by its figure; those without one are grey."""
    last = found.benchmark or "score"
    columns, width = [*found.axes, last], (found.high - found.low) or 1.0
    rows = []
    for t in found.threads:
        tip = f"{t.variant}: {'not measured' if t.figure is None else f'{last} {figure(t.figure)}'}"
        about = {"variant": t.variant, "figure": t.figure, "tip": tip}
        rows += [{**about, "axis": axis, "height": height} for axis, height in t.heights]
        if t.figure is not None:
            rows.append({**about, "axis": last, "height": (t.figure - found.low) / width})
    spots = [
        {"axis": axis, "height": spot.height, "value": spot.value}
        for axis, several in found.axes.items()
        for spot in several[:: -(-len(several) // MOST_TICKS)]
    ]
    spots += [
        {"axis": last, "height": h, "value": figure(v)}
        for h, v in ((0, found.low), (1, found.high))
        if h or width == found.high - found.low
    ]
    x = alt.X("axis:N", sort=columns, title=None, scale=alt.Scale(type="point", padding=0.5))
    x = x.axis(orient="top", labelAngle=0, domain=False, ticks=False, labelFontWeight="bold", labelPadding=12)
    y = alt.Y("height:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    scored, without = ([r for r in rows if (r["figure"] is None) is none] for none in (False, True))
    colour = alt.Color("figure:Q", scale=alt.Scale(range=[WORST, BEST], domain=[found.low, found.high]), legend=None)
    order = {"detail": "variant:N", "description": "tip:N"}
    text = alt.Chart(_data(spots)).encode(x=x, y=y, text="value:N")
    layers = [
        alt.Chart(_data([{"axis": c} for c in columns])).mark_rule(color=RULE, strokeWidth=2).encode(x=x),
        *([_line(without, 1.0, RANK["stopped"]).encode(x=x, y=y, **order)] * bool(without)),
        *([_line(scored).encode(x=x, y=y, color=colour, **order)] * bool(scored)),
        text.mark_text(stroke=CARD, strokeWidth=4, strokeJoin="round", align="left", dx=5),
        text.mark_text(align="left", dx=5),
    ]
    return alt.layer(*layers).properties(width=max(440, min(WIDE + 100, 140 * len(columns))), height=240)


def _line(
    rows: Sequence[Mapping[str, object]], width: float = 1.8, colour: str | alt.UndefinedType = alt.Undefined
) -> alt.Chart:
    return alt.Chart(_data(rows)).mark_line(strokeWidth=width, opacity=0.8, color=colour)


def shares(found: Importances) -> Drawing:
    """A bar an axis."""
    rows = [{"axis": a, "share": s, "tip": f"{a}: {s:.0%}", "said": f"{s:.0%}"} for a, s in found.shares]
    y = alt.Y("axis:N", sort=[a for a, _ in found.shares], title=None)
    x = alt.X("share:Q", title="share of the score's variance", axis=alt.Axis(format=".0%", tickCount=5))
    base = alt.Chart(_data(rows)).encode(x=x, y=y, description="tip:N")
    return alt.layer(
        base.mark_bar(color=VALUES[0], height={"band": 0.7}), base.mark_text(align="left", dx=4).encode(text="said:N")
    ).properties(width=320, height={"step": 26})


def stages(found: StageGraph) -> Drawing:
    """Stage runs in columns by depth, sized by steps; a line to each from the one that it goes on from."""
    places, parents = {n.run.name: n for n in found.nodes}, {n.run.parent for n in found.nodes}
    deepest = max(n.depth for n in found.nodes)
    rows, edges, labels = [], [], []
    for n in found.nodes:
        users = n.variants[0] if len(n.variants) == 1 else f"{len(n.variants)} variants"
        tip = f"{n.run.name}, {n.state}: {n.run.taken:,} of {n.run.steps:,} steps; used by {users}"
        rows.append({"x": n.depth, "y": n.height, "steps": n.run.steps, "state": n.state, "tip": tip})
        if parent := places.get(n.run.parent or ""):
            edges.append({"x": parent.depth, "y": parent.height, "x2": n.depth, "y2": n.height, "tip": tip})
        if n.run.name not in parents:
            own = n.variants[0] + (f" and {len(n.variants) - 1} more" if len(n.variants) > 1 else "")
            labels.append({"x": n.depth, "y": n.height, "said": own})
    heads = {n.depth: n.run.stage for n in found.nodes}
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.15, deepest + 0.9]))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[found.leaves - 0.5, -1.3]))
    states = [s for s in STATE if any(n.state == s for n in found.nodes)]
    colour = alt.Color("state:N", scale=alt.Scale(domain=states, range=[STATE[s] for s in states]))
    layers = [
        alt.Chart(_data(edges)).mark_rule(color=RULE, strokeWidth=2).encode(x=x, y=y, x2="x2:Q", y2="y2:Q"),
        alt.Chart(_data(rows))
        .mark_circle(opacity=1, stroke=CARD, strokeWidth=1)
        .encode(
            x=x,
            y=y,
            color=colour,
            size=alt.Size("steps:Q", scale=alt.Scale(range=[40, 320]), legend=None),
            description="tip:N",
        ),
        alt.Chart(_data([{"x": d, "y": -0.9, "said": s} for d, s in heads.items()]))
        .mark_text(fontWeight="bold")
        .encode(x=x, y=y, text="said:N"),
    ]
    if found.leaves <= MOST_LABELS:
        layers.append(
            alt.Chart(_data(labels)).mark_text(align="left", dx=12, limit=260).encode(x=x, y=y, text="said:N")
        )
    return alt.layer(*(layers if edges else layers[1:])).properties(
        width=WIDE, height=max(90, min(900, 20 * (found.leaves + 2)))
    )


def lanes(found: Timeline) -> Drawing:
    """A bar an item, a row a lane."""
    unit, per = _unit(found.seconds)
    rows = [
        {
            "lane": s.lane,
            "begin": s.begin / per,
            "end": s.end / per,
            "how": s.how,
            "tip": f"{s.run}, {s.how}, for {s.variant}: {s.seconds:,.1f} s" + (f", {s.steps:,} steps" * bool(s.steps)),
        }
        for s in found.spans
    ]
    hows = [s for s in STATE if any(r["how"] == s for r in rows)]
    x = alt.X("begin:Q", title=f"{unit} since the first item", axis=alt.Axis(tickCount=8), scale=alt.Scale(nice=False))
    y = alt.Y("lane:O", title=None, axis=alt.Axis(labels=False, ticks=False, domain=False))
    colour = alt.Color("how:N", scale=alt.Scale(domain=hows, range=[STATE[s] for s in hows]))
    layers = [
        alt.Chart(_data(rows))
        .mark_bar(stroke=CARD, strokeWidth=1, cornerRadius=2)
        .encode(x=x, x2="end:Q", y=y, color=colour, description="tip:N")
    ]
    if found.cuts:
        cuts = [{"begin": at / per, "tip": f"{seconds:,.0f} s in which nothing ran"} for at, seconds in found.cuts]
        rule = alt.Chart(_data(cuts)).mark_rule(color=FAINT, strokeDash=[3, 3], strokeWidth=2)
        layers.append(rule.encode(x=x, description="tip:N"))
    return alt.layer(*layers).properties(width=WIDE, height={"step": 22})


def dumbbells(found: Sequence[Beside]) -> Drawing:
    """A panel a benchmark: ours with its interval, the paper's as a diamond."""
    rows = []
    for b in found:
        about = {"variant": b.variant, "panel": b.benchmark, "low": b.low, "high": b.high}
        rows.append({**about, "whose": "published", "figure": b.published, "tip": f"{b.variant}: {b.published:g}"})
        if b.ours is not None:
            tip = f"{b.variant}: ours {figure(b.ours)}, published {b.published:g}"
            rows.append({**about, "whose": "ours", "figure": b.ours, "tip": tip})
    whose = alt.Color("whose:N", scale=alt.Scale(domain=["ours", "published"], range=[VALUES[0], VALUES[1]]))
    shape = alt.Shape("whose:N", scale=alt.Scale(domain=["ours", "published"], range=["circle", "diamond"]))
    y = alt.Y("variant:N", sort=list(dict.fromkeys(b.variant for b in found)), title=None)
    base = alt.Chart().encode(y=y, description="tip:N")
    x = alt.X(
        "figure:Q", title=None, scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=4, labelExpr=EXACT)
    )
    layers = alt.layer(
        base.transform_filter("datum.whose == 'ours'").mark_rule(color=FAINT).encode(x="low:Q", x2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=x, color=whose, shape=shape),
        data=_data(rows),
    ).properties(width=180, height={"step": 20})
    panels = list(dict.fromkeys(b.benchmark for b in found))
    return layers.facet(facet=alt.Facet("panel:N", sort=panels, title=None), columns=3).resolve_scale(x="independent")


def _data(rows: Sequence[Mapping[str, object]]) -> alt.Data:
    return alt.Data(values=[dict(row) for row in rows])


def _ranks(there: Iterable[str]) -> alt.Color:
    known = set(there)
    names = [rank for rank in RANKS if rank in known]
    return alt.Color("rank:N", scale=alt.Scale(domain=names, range=[RANK[n] for n in names]))


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)
