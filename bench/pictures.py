"""The pictures of a result: CPU per request over the relay floor, latency by percentile, memory.

SVG by matplotlib (the extra `bench`), which is imported only when something is drawn. Text stays text, and
the same document gives the same bytes, so that a picture changes in the repository only when its figures do.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.compare import Document
from bench.harness.place import BenchError
from bench.rows import SUBJECT

ORDER = ("direct", "floor", "fastmesh", "nginx", "haproxy", "envoy", "traefik", "caddy")
CPU_PICTURE, MEMORY_PICTURE = "cpu-per-request.svg", "memory.svg"

# Pixels as a browser counts them: 96 to the inch.
_WIDTH, _DPI = 900, 96
_ROW, _TITLE, _AXIS = 19, 36, 30
# Of the text at 8 pt: what one letter takes, for margins that hold the names.
_LETTER = 6.6
_INK, _FAINT, _GRID = "#24292f", "#6e7781", "#e4e7eb"
_SUBJECT_COLOUR, _SUBJECT_ELSE, _PEER_COLOUR, _FLOOR_COLOUR = "#d55e00", "#f0b183", "#8fa3b8", "#d8dce1"
_ERROR_COLOUR = "#a40e26"
# Lines cross each other, so each peer has a colour of its own there, which any colour vision tells apart, and
# a marker.
_LINE_COLOURS = {
    "direct": "#9aa1a9",
    "floor": "#24292f",
    SUBJECT: _SUBJECT_COLOUR,
    "nginx": "#117733",
    "haproxy": "#4477aa",
    "envoy": "#aa3377",
    "traefik": "#998800",
    "caddy": "#33a5c8",
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # it comes with matplotlib, so that the layout is the same everywhere
    "font.size": 8.0,
    "text.color": _INK,
    "axes.edgecolor": "#c3c9d0",
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "#c3c9d0",
    "ytick.color": "#c3c9d0",
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fastmesh",
    "savefig.facecolor": "white",  # a page in dark mode shows it as it is here
}


def in_order(names: Iterable[str]) -> list[str]:
    """Contenders in the suite's order; `NAME@LABEL` follows NAME, unknown ones come last."""

    def place(name: str) -> tuple[int, bool]:
        base, _, label = name.partition("@")
        return ORDER.index(base) if base in ORDER else len(ORDER), bool(label)

    return sorted(names, key=place)


def first_line(text: str) -> str:
    """The first line of a reason, without what cannot be shown, or an empty string."""
    line = (text.strip().splitlines() or [""])[0]
    return "".join(letter if letter.isprintable() else " " for letter in line).strip()


def pictures_of(document: Document) -> dict[str, str]:
    """File name and alternative text of each picture that `draw` makes of this document."""
    found = {}
    core = _core(document)
    if core:
        found[CPU_PICTURE] = "Bars: CPU per request of each proxy over that of the relay floor, by scenario"
    for step in document["latency"]:
        found[f"{step['name']}.svg"] = f"Lines: {step['title']}, by percentile, a line for each contender"
    if document["idle_memory"] or document["connection_memory"]:
        found[MEMORY_PICTURE] = "Bars: memory of an idle connection, and of an idle process, of each proxy"
    return found


def draw(document: Document, folder: Path) -> list[Path]:
    """Writes the pictures of a result into `folder`, made if need be, and returns their paths.

    The same document gives the same bytes. BenchError if matplotlib is missing.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise BenchError("matplotlib is missing, which draws the pictures: pip install '.[bench]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own style would change the bytes
        matplotlib.rcParams.update(_STYLE)
        for name in pictures_of(document):
            if name == CPU_PICTURE:
                figure = _cpu_figure(_core(document))
            elif name == MEMORY_PICTURE:
                figure = _memory_figure(document)
            else:
                figure = _latency_figure(next(s for s in document["latency"] if f"{s['name']}.svg" == name))
            paths.append(folder / name)
            figure.savefig(paths[-1], format="svg", metadata={"Date": None, "Creator": None})
    return paths


def _core(document: Document) -> list[Mapping[str, Any]]:
    return [scenario for scenario in document["scenarios"] if scenario["group"] == "core"]


def _figure(height: float, title: str) -> Any:
    """A white figure, 900 pixels wide and `height` high, with its title at the top left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI))
    figure.text(14 / _WIDTH, 1 - 14 / height, title, fontsize=11, fontweight="bold", va="top")
    return figure


def _axes(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Axes by pixels from the top left corner."""
    total = figure.get_figheight() * _DPI
    return figure.add_axes((left / _WIDTH, 1 - (top + height) / total, width / _WIDTH, height / total))


# Bars.


@dataclass(frozen=True)
class Bar:
    """A row of a panel. `problem` says why its value is not to be used, or that there is none."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    beyond: float | None = None
    problem: str = ""
    invalid: bool = False

    @property
    def usable(self) -> bool:
        return self.value is not None and not self.problem


def number(value: float) -> str:
    """Three digits or more, as a table of such figures needs them."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def _bar_colours(name: str) -> tuple[str, str, str]:
    """Of a bar's own part, and of the floor's part in it with its hatching."""
    base = name.partition("@")[0]
    if base == SUBJECT:
        return _SUBJECT_COLOUR if name == SUBJECT else _SUBJECT_ELSE, "#fae3d3", "#eab48b"
    return _FLOOR_COLOUR if base == "floor" else _PEER_COLOUR, _FLOOR_COLOUR, "#aeb5bd"


def _reach(bars: Sequence[Bar]) -> float:
    """How far bars and ranges are drawn: no single wild round makes all bars short."""
    drawn = [bar for bar in bars if bar.usable] or list(bars)
    highest = max([bar.beyond or bar.value or 0.0 for bar in drawn], default=0.0) or 1.0
    return min(max([highest, *(bar.high or 0.0 for bar in drawn)]), 1.5 * highest)


def _panel(axes: Any, title: str, bars: Sequence[Bar], label: Callable[[Bar], str]) -> None:
    """Horizontal bars with names, numbers and ranges; over the floor's hatched part if there is a floor."""
    floor, reach = _floor_of(bars), _reach(bars)
    width, left = axes.get_position().width * _WIDTH, _margin(bar.name for bar in bars)
    room = 14 + 6.4 * max((len(label(bar)) for bar in bars if bar.usable), default=0)
    for row, bar in enumerate(bars):
        at = _draw_bar(axes, row, bar, floor, reach)
        text, look = label(bar), {"color": _INK}
        if not bar.usable:
            text = textwrap.shorten(bar.problem, int(0.85 * width / 5.8), placeholder="…")
            look = {"color": _ERROR_COLOUR if bar.invalid else _FAINT, "backgroundcolor": "white"}
        weight = "bold" if bar.name == SUBJECT else "normal"
        place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center_baseline"}
        drawn = axes.annotate(text, (at, row), fontweight=weight, fontsize=7.5, **place, **look)
        if not bar.usable:
            drawn.get_bbox_patch().set(boxstyle="square,pad=0.1")
    if floor is not None:  # behind the bars, so that it hides nothing of a thin one
        axes.axvline(floor, color=_INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=0.8)
    axes.set_xlim(0, reach * width / (width - room))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    for tick, bar in zip(axes.get_yticklabels(), bars, strict=True):
        tick.set_fontweight("bold" if bar.name == SUBJECT else "normal")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x")
    lines = textwrap.wrap(title, int((width + left) / 6.9), max_lines=2, placeholder="…")
    axes.set_title("\n".join(lines), loc="left", fontsize=8.5, fontweight="bold", x=(8 - left) / width, pad=5)


def _floor_of(bars: Sequence[Bar]) -> float | None:
    return next((bar.value for bar in bars if bar.name == "floor" and bar.usable), None)


def _draw_bar(axes: Any, row: int, bar: Bar, floor: float | None, reach: float) -> float:
    """Draws one bar and returns where its number or the reason of its absence may stand."""
    if bar.invalid:  # a stub: its length would be read as a figure
        look = {"color": "white", "edgecolor": _ERROR_COLOUR, "hatch": "xxxx", "linewidth": 0.6}
        axes.barh(row, 0.08 * reach, 0.66, **look)
        return 0.08 * reach
    if bar.value is None:
        return 0.0
    value, high = max(0.0, min(bar.value, reach)), bar.high or 0.0
    colour, pale, edge = _bar_colours(bar.name)
    base = min(value, floor or 0.0)
    if base:
        axes.barh(row, base, 0.66, color=pale, edgecolor=edge, hatch="////", linewidth=0)
    axes.barh(row, value - base, 0.66, left=base, color=colour, linewidth=0)
    if bar.beyond is not None and bar.beyond > value:
        axes.barh(row, bar.beyond - value, 0.66, left=value, color=colour, alpha=0.35, linewidth=0)
    if bar.low is not None and bar.high is not None:
        ends = [max(0.0, value - bar.low)], [max(0.0, min(high, reach) - value)]
        look = {"ecolor": _INK, "elinewidth": 0.9, "capsize": 2.2, "capthick": 0.9}
        axes.errorbar(value, row, xerr=ends, fmt="none", **look)
        if high > reach:  # it goes on
            axes.plot(reach, row, marker=">", color=_INK, markersize=4)
    return min(max(value, bar.beyond or 0.0, high), reach)


def _margin(names: Iterable[str]) -> float:
    """Pixels that the longest name takes."""
    return max((len(name) for name in names), default=0) * _LETTER + 16


def _reason(scenario: Mapping[str, Any], name: str) -> str:
    if name in scenario["absent"]:
        return f"absent: {first_line(scenario['absent'][name])}"
    return "not measured"


def _cost_bars(scenario: Mapping[str, Any], names: Sequence[str]) -> list[Bar]:
    bars = []
    for name in names:
        figures = scenario["summary"].get(name)
        if figures is None:
            bars.append(Bar(name, None, problem=_reason(scenario, name)))
            continue
        value, invalid = figures["cpu_us_per_request"], bool(figures["invalid"])
        problem = f"INVALID: {first_line(figures['invalid'])}" if invalid else ""
        if value is None and not invalid:
            problem = "not measured"
        bars.append(Bar(name, value, figures["low"], figures["high"], problem=problem, invalid=invalid))
    return bars


def _cost_label(bars: Sequence[Bar]) -> Callable[[Bar], str]:
    floor = _floor_of(bars)

    def label(bar: Bar) -> str:
        value = bar.value or 0.0
        times = f" · {value / floor:.2f}×" if floor and bar.name != "floor" else ""
        return f"{number(value)} µs{times}"

    return label


def _cpu_figure(scenarios: Sequence[Mapping[str, Any]]) -> Any:
    """A panel a scenario, two in a line, each with an axis of its own."""
    named = {name for s in scenarios for name in (*s["summary"], *s["absent"]) if name != "direct"}
    names = in_order(sorted(named))
    columns = min(2, len(scenarios))
    lines = math.ceil(len(scenarios) / columns)
    left, height = _margin(names), len(names) * _ROW
    head, pitch = 58, height + _TITLE + _AXIS
    figure = _figure(head + lines * pitch + 12, "CPU per request (µs), over the relay floor")
    width = (_WIDTH - 20) / columns - left - 12
    for index, scenario in enumerate(scenarios):
        line, column = divmod(index, columns)
        bars = _cost_bars(scenario, names)
        axes = _axes(
            figure, 6 + left + column * (left + width + 16), head + line * pitch + _TITLE, width, height
        )
        _panel(axes, scenario["title"], bars, _cost_label(bars))
    _cost_legend(figure, names, any(v["invalid"] for s in scenarios for v in s["summary"].values()))
    return figure


def _cost_legend(figure: Any, names: Sequence[str], invalid: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys: list[Any] = []
    style: dict[str, Any]
    if "floor" in names:
        style = {"facecolor": _FLOOR_COLOUR, "edgecolor": "#aeb5bd", "linewidth": 0}
        keys.append(Patch(hatch="////", label="hatched: the relay floor's part (×: of the floor)", **style))
    if SUBJECT in names:
        keys.append(Patch(color=_SUBJECT_COLOUR, linewidth=0, label="fastmesh"))
    if any(name.partition("@")[0] not in (SUBJECT, "floor") for name in names):
        keys.append(Patch(color=_PEER_COLOUR, linewidth=0, label="a peer"))
    keys.append(
        Line2D([], [], color=_INK, linewidth=0.9, marker="|", markersize=5, label="range of the rounds")
    )
    if invalid:
        style = {"facecolor": "white", "edgecolor": _ERROR_COLOUR, "linewidth": 0.6}
        keys.append(Patch(hatch="xxxx", label="invalid, not drawn", **style))
    _legend(figure, keys)


def _legend(figure: Any, keys: Sequence[Any]) -> None:
    """In one line under the figure's title."""
    height = figure.get_figheight() * _DPI
    where = (8 / _WIDTH, 1 - 34 / height)
    figure.legend(
        handles=keys,
        loc="upper left",
        bbox_to_anchor=where,
        ncols=len(keys),
        frameon=False,
        fontsize=8,
        columnspacing=1.6,
        handlelength=1.6,
        borderaxespad=0,
    )


def _memory_figure(document: Document) -> Any:
    """Two panels: what an idle connection takes, and what a process takes that has served nothing."""
    from matplotlib.patches import Patch

    idle, each = document["idle_memory"], document["connection_memory"]
    names = in_order([*idle, *(name for name in each if name not in idle)])
    left, height, head = _margin(names), len(names) * _ROW, 58
    figure = _figure(head + _TITLE + height + _AXIS + 8, "Memory")
    width = (_WIDTH - 20) / 2 - left - 12
    panels = (
        (
            "KiB of each idle connection",
            [_memory_bar(name, each, "per_connection", 1024) for name in names],
        ),
        (
            "MiB of the idle process tree",
            [_memory_bar(name, idle, "proportional", 2**20, "resident") for name in names],
        ),
    )
    for column, (title, bars) in enumerate(panels):
        axes = _axes(figure, 6 + left + column * (left + width + 16), head + _TITLE, width, height)
        _panel(axes, title, bars, _memory_label)
    keys = [
        Patch(color=_PEER_COLOUR, linewidth=0, label="proportional: a shared page counts in part"),
        Patch(
            color=_PEER_COLOUR,
            alpha=0.35,
            linewidth=0,
            label="resident, in brackets: it counts in each process",
        ),
    ]
    _legend(figure, keys)
    return figure


def _memory_bar(name: str, sizes: Mapping[str, Any], key: str, unit: int, beyond: str = "") -> Bar:
    if name not in sizes:
        return Bar(name, None, problem="not measured")
    more = sizes[name][beyond] / unit if beyond else None
    return Bar(name, sizes[name][key] / unit, beyond=more)


def _memory_label(bar: Bar) -> str:
    value = bar.value or 0.0
    return number(value) if bar.beyond is None else f"{value:.1f} ({bar.beyond:.1f})"


# Lines.

_LAST_PERCENTILE = 99.99
_TICKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)


def _x(percentile: float) -> float:
    """HdrHistogram's axis: each further nine takes the same width."""
    return 100 / (100 - percentile)


def _trusted(percentile: float, quantiles: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the generator's error is known to be small here: as at the next quantile that was judged."""
    for name in sorted(quantiles, key=float):
        if percentile <= float(name):
            return bool(quantiles[name]["shown"])
    return False


def curve(
    points: Sequence[Sequence[float]], quantiles: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[bool, list[tuple[float, float]]]]:
    """Cuts a distribution, (percentile, µs) each, into stretches that are to be trusted or not.

    Neighbouring stretches share a point. What lies behind 99.99 % is left out, and what is no latency.
    """
    kept = [(p, us) for p, us in points if p <= _LAST_PERCENTILE and us > 0]
    stretch: list[tuple[float, float]] = []
    solid = True
    for before, after in pairwise(kept):
        now = _trusted(after[0], quantiles)
        if stretch and now != solid:
            yield solid, stretch
            stretch = []
        solid = now
        stretch = [*(stretch or [before]), after]
    if stretch:
        yield solid, stretch


def duration(us: float) -> str:
    """A latency in the unit that reads best, three digits."""
    for size, unit in ((1_000_000, "s"), (1000, "ms"), (1, "µs")):
        if us >= size:
            value = us / size
            return f"{value:.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"
    return f"{us:.2g} µs"


def _latency_figure(step: Mapping[str, Any]) -> Any:
    summary = step["summary"]
    names = in_order([*summary, *(name for name in step["absent"] if name not in summary)])
    keys = [_legend_text(step, name) for name in names]
    legend = max(150.0, max((len(key) for key in keys), default=0) * 6.3 + 48)
    height = max(430, 110 + len(names) * 22)
    figure = _figure(height, step["title"][:1].upper() + step["title"][1:])
    rate = f"{step['rate']:,.0f} requests/s over {step['connections']:,} connections"
    figure.text(
        14 / _WIDTH, 1 - 34 / height, f"{rate}, counted from the intended send time", color=_FAINT, va="top"
    )
    axes = _axes(figure, 62, 60, _WIDTH - 62 - legend - 20, height - 60 - 62)
    handles = [
        _draw_line(axes, name, _MARKERS[index % len(_MARKERS)], summary.get(name))
        for index, name in enumerate(names)
    ]
    _latency_axes(axes)
    note = "Faint, dashed: the generator's own error is a tenth or more of the figure there, or not known."
    figure.text(62 / _WIDTH, 10 / height, note, color=_FAINT, fontsize=7.5, va="bottom")
    where = (1 + 14 / (_WIDTH - 62 - legend - 20), 1)
    drawn = axes.legend(
        handles,
        keys,
        loc="upper left",
        bbox_to_anchor=where,
        frameon=False,
        labelspacing=0.75,
        borderaxespad=0,
    )
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_fontweight("bold" if name == SUBJECT else "normal")
        if name not in summary or summary[name]["invalid"]:
            text.set_color(_FAINT if name not in summary else _ERROR_COLOUR)
    return figure


def _legend_text(step: Mapping[str, Any], name: str) -> str:
    figures = step["summary"].get(name)
    if figures is None:
        return f"{name}: {textwrap.shorten(_reason(step, name), 22, placeholder='…')}"
    if figures["invalid"]:
        return (
            f"{name}: {textwrap.shorten('INVALID: ' + first_line(figures['invalid']), 22, placeholder='…')}"
        )
    for quantile in ("99", "90", "50"):
        judged = figures["quantiles_us"].get(quantile)
        if judged is not None and judged["shown"]:
            return f"{name}, p{quantile} {duration(judged['value'])}"
    return name


def _draw_line(axes: Any, name: str, marker: str, figures: Mapping[str, Any] | None) -> Any:
    """One contender's line, with a marker at each quantile that is shown; returns its legend key."""
    from matplotlib.lines import Line2D

    base = name.partition("@")[0]
    colour = _LINE_COLOURS.get(base, _FAINT)
    width = {SUBJECT: 2.4, "direct": 1.0}.get(name, 1.4)
    look: dict[str, Any] = {"color": colour, "linewidth": width, "zorder": 4 if name == SUBJECT else 3}
    dots: dict[str, Any] = {
        "marker": marker,
        "markersize": 5,
        "markerfacecolor": "white" if "@" in name else colour,
    }
    if name == "direct":
        dots = {}
    if figures is None:
        return Line2D([], [], linestyle="none")
    faint = bool(figures["invalid"])
    quantiles = figures["quantiles_us"]
    for solid, stretch in curve(figures["distribution"], quantiles):
        xs, ys = [_x(p) for p, _ in stretch], [us for _, us in stretch]
        # Direct access is what the error is measured against: nothing of it is hidden.
        if (solid or name == "direct") and not faint:
            axes.plot(xs, ys, **look)
        else:
            axes.plot(xs, ys, **{**look, "linewidth": 0.6 * width}, alpha=0.45, linestyle=(0, (4, 2.5)))
    shown = [(float(q), v["value"]) for q, v in quantiles.items() if v["shown"] and v["value"]]
    if shown and dots and not faint:
        axes.plot([_x(p) for p, _ in shown], [us for _, us in shown], linestyle="none", **{**look, **dots})
    return Line2D([], [], alpha=0.45 if faint else 1, linestyle="--" if faint else "-", **look, **dots)


def latency_ticks(low: float, high: float) -> list[float]:
    """From at or below the lowest latency to at or above the highest: 1, 2, 5, 10, … or, if many, decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    first = max(tick for tick in fine if tick <= low)
    last = min(tick for tick in fine if tick >= high and tick > first)
    chosen = [tick for tick in fine if first <= tick <= last]
    return chosen if len(chosen) <= 14 else [10.0**decade for decade in decades]


def _latency_axes(axes: Any) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, _x(_LAST_PERCENTILE) * 1.02)
    axes.xaxis.set_major_locator(FixedLocator([_x(tick) for tick in _TICKS]))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g} %" for tick in _TICKS]))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    ticks = latency_ticks(*axes.dataLim.intervaly) if axes.has_data() else [1.0, 1000.0]
    axes.set_ylim(ticks[0], ticks[-1])
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda us, _position: duration(us)))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.set_xlabel("percentile of the requests")
    axes.grid()
