"""Charts as pictures: Vega draws them when the report is written, so that the page needs no script.

A chart has the light page's colours. In the page's SVG they become the page's CSS variables, so that one picture is
right in light and dark; the PNG keeps them, on white. What a mark says of itself (its description) becomes its tooltip.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

INK, FAINT, RULE, CARD = "#1c2126", "#68727d", "#dde2e7", "#fffffe"
RANK = {"champion": "#c2410c", "tied": "#1d6fb7", "other": "#76848f", "stopped": "#b9c2cb"}
STATE = {
    "trained": "#1d6fb8",
    "measured": "#8f5bc2",
    "reused": "#2f9e6e",
    "paused": "#d99a1c",
    "failed": "#c8372d",
    "lost": "#a34a8c",
    "not begun": "#c3cbd3",
}
VALUES = ("#1d6fb9", "#e08a1e", "#2f9e6f", "#8f5bc3", "#c8486b", "#7a7a2e", "#2aa3b5", "#9c6b3f")
"""Of an axis, in order; an axis with more values begins anew."""
WORST, BEST = "#9fb0bf", "#e2551a"
"""The ends of a scale of scores."""
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    RULE: "--rule",
    CARD: "--card",
    **{colour: f"--rank-{rank}" for rank, colour in RANK.items()},
    STATE["not begun"]: "--idle",
}
FONT = "Helvetica Neue, Arial, sans-serif"
SCALE = 2
"""Pixels of a PNG for one of the page."""


@dataclass(frozen=True)
class Plate:
    """A figure of the page."""

    name: str
    """Its anchor, and the PNG's file name without ending."""
    caption: str
    alt: str
    svg: str
    png: bytes
    wide: bool
    """Whether it takes a row of its own."""


NARROW = 430
"""Pixels up to which a figure shares a row with another."""


Drawing = alt.LayerChart | alt.FacetChart


def plate(name: str, chart: Drawing, caption: str, alt_text: str) -> Plate:
    """Draw a chart of altair's."""
    spec = chart.configure(**_config()).to_dict()
    svg = vl_convert.vegalite_to_svg(spec, vl_version=".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2]))
    png = vl_convert.svg_to_png(svg.replace(">", '><rect width="100%" height="100%" fill="#fff"/>', 1), scale=SCALE)
    return Plate(name, caption, alt_text, themed(svg, name), png, width_of(svg) > NARROW)


def themed(svg: str, name: str) -> str:
    """An SVG for the page: its colours are variables, its ids are its own, its marks have tooltips."""
    svg = re.sub(r'fill="white"|stroke="white"', lambda m: m[0].replace("white", "none"), svg)
    svg = re.sub(
        r"#[0-9a-fA-F]{6}\b", lambda m: f"var({VARIABLES[c]})" if (c := m[0].lower()) in VARIABLES else m[0], svg
    )
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'(<path aria-label="([^"]*)"[^>]*?)/>', r"\1><title>\2</title></path>", svg)
    width = width_of(svg)
    size = f'style="max-width:{width:.0f}px;min-width:{min(width, 560):.0f}px"'
    return re.sub(r'<svg([^>]*?) width="[\d.]+" height="[\d.]+"', rf"<svg\1 {size}", svg, count=1)


def width_of(svg: str) -> float:
    """Of an SVG of Vega's, in pixels."""
    found = re.search(r'<svg[^>]*? width="([\d.]+)"', svg)
    return float(found[1]) if found else 0.0


def _config() -> dict[str, Any]:
    text = {
        "labelColor": FAINT,
        "titleColor": INK,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,  # the reader's font may be wider than the one that is measured here
    }
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {**text, "gridColor": RULE, "domainColor": RULE, "tickColor": RULE, "labelLimit": 220},
        "legend": {
            **text,
            "orient": "top",
            "title": None,
            "symbolStrokeWidth": 2,
            "labelLimit": 260,
            "offset": 6,
            "columnPadding": 24,
            "symbolOpacity": 1,
        },
        "header": {**text, "labelFontSize": 12, "labelColor": INK, "labelFontWeight": "bold"},
        "text": {"color": INK, "fontSize": 11},
        "bar": {"cornerRadiusEnd": 2},
    }
