"""`python -m bench.page RESULT.json`: puts a full run into docs/benchmarks.md, with its pictures.

The text between the two marks of the page is written anew; all else of the page is written by hand and kept.
Beside it come the pictures (docs/benchmarks/*.svg) and newest.json, which is the result without its samples.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.compare import Document, load
from bench.harness.place import ROOT, BenchError
from bench.pictures import CPU_PICTURE, MEMORY_PICTURE, ORDER, draw, first_line, in_order, number, pictures_of
from bench.report import aligned, write_json
from bench.rows import SUBJECT
from bench.session import exit_code_of

PAGE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
# What a run must hold to be called a full one.
CORE = ("small", "connections-1024", "body-16k", "body-1m", "close", "tcp")
RATES = ("latency-25", "latency-50", "latency-75")
_KIB, _MIB = 1024, 1024 * 1024
_NOTHING = "–"
_QUANTILES = ("50", "90", "99", "99.9")


# Where a peer is ahead.


@dataclass(frozen=True)
class Contest:
    """One figure of each contender, smaller is better. None: measured, but not to be compared.

    `texts` are the figures as one reads them; `ranges` those of the rounds; `counted` are things, not sizes.
    """

    what: str
    values: Mapping[str, float | None]
    texts: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    counted: bool = False

    @property
    def peers(self) -> list[str]:
        return [name for name in in_order(self.values) if is_peer(name)]


@dataclass(frozen=True)
class Lead:
    """A peer with a better figure than fastmesh."""

    what: str
    peer: str
    theirs: str
    ours: str
    by: str
    note: str


def is_peer(name: str) -> bool:
    """Not what figures are measured against (direct access, the floor), nor another build of fastmesh."""
    return name.partition("@")[0] not in ("direct", "floor", SUBJECT)


def _cost_contest(scenario: Mapping[str, Any]) -> Contest:
    summary = scenario["summary"]
    values = {n: None if f["invalid"] else f["cpu_us_per_request"] for n, f in summary.items()}
    return Contest(
        f"CPU per request, {scenario['name']}",
        values,
        {n: f"{number(value)} µs" for n, value in values.items() if value is not None},
        {n: (f["low"], f["high"]) for n, f in summary.items() if None not in (f["low"], f["high"])},
    )


def _latency_contest(step: Mapping[str, Any]) -> Contest:
    values: dict[str, float | None] = {}
    for name, figures in step["summary"].items():
        p99 = figures["quantiles_us"].get("99")
        values[name] = p99["value"] if p99 and p99["shown"] and not figures["invalid"] else None
    texts = {n: f"{value:,.0f} µs" for n, value in values.items() if value is not None}
    return Contest(f"p99, {step['name']}", values, texts)


def _fault_contest(fault: Mapping[str, Any]) -> Contest:
    summary = fault["summary"]
    return Contest(
        f"failed requests, {fault['name']}",
        {n: None if f["invalid"] else f["failed"] for n, f in summary.items()},
        {n: f"{f['failed']:,} of {f['requests']:,}" for n, f in summary.items()},
        counted=True,
    )


def contests(document: Document) -> Iterator[Contest]:
    """All that is compared: CPU per request, p99 at each rate, memory, failed requests."""
    yield from map(_cost_contest, document["scenarios"])
    yield from map(_latency_contest, document["latency"])
    for key in ("resident", "proportional"):
        sizes = {n: size[key] for n, size in document["idle_memory"].items()}
        texts = {n: f"{size / _MIB:.1f} MiB" for n, size in sizes.items()}
        yield Contest(f"idle memory, {key}", sizes, texts)
    each = {n: use["per_connection"] for n, use in document["connection_memory"].items()}
    texts = {n: f"{size / _KIB:.2f} KiB" for n, size in each.items()}
    yield Contest("memory of an idle connection", each, texts)
    yield from map(_fault_contest, document["faults"])


def leads(document: Document) -> list[Lead]:
    """Each figure in which a peer is better than fastmesh; both valid, and by whatever little."""
    found = []
    for contest in contests(document):
        ours = contest.values.get(SUBJECT)
        for peer in contest.peers:
            theirs = contest.values[peer]
            if ours is not None and theirs is not None and theirs < ours:
                texts = contest.texts[peer], contest.texts[SUBJECT]
                by = f"{ours - theirs:,.0f} fewer" if contest.counted else _less(theirs, ours)
                note = "the ranges of the rounds overlap" if _overlap(contest.ranges, peer) else ""
                found.append(Lead(contest.what, peer, *texts, by, note))
    return found


def _less(theirs: float, ours: float) -> str:
    share = (ours - theirs) / abs(ours) if ours else 1.0
    return f"{share:.0%} less" if share >= 0.095 else f"{share:.1%} less"


def _overlap(ranges: Mapping[str, tuple[float, float]], peer: str) -> bool:
    """Whether the dearest round of the peer, which is cheaper, cost as much as our cheapest."""
    return peer in ranges and SUBJECT in ranges and ranges[peer][1] >= ranges[SUBJECT][0]


def not_compared(document: Document) -> list[str]:
    """Figures that a reader would look for in vain: whose they are, and in what."""
    found = []
    for contest in contests(document):
        if contest.peers and contest.values.get(SUBJECT) is None:
            found.append(f"{contest.what}: no valid figure of {SUBJECT}")
        elif missing := [peer for peer in contest.peers if contest.values[peer] is None]:
            found.append(f"{contest.what}: no valid figure of {', '.join(missing)}")
    return found


def _ahead_part(document: Document) -> str:
    lines = [(lead.what, lead.peer, lead.theirs, lead.ours, lead.by, lead.note) for lead in leads(document)]
    text = "Each figure in which a peer's valid result is better than fastmesh's, by whatever little: "
    if lines:
        header = ("what", "peer", "the peer's", f"{SUBJECT}'s", "by", "remarks")
        text += f"{len(lines)}.\n\n{aligned(header, lines, left=2)}"
    else:
        text += "none."
    missing = not_compared(document)
    if missing:
        text += "\n\nNot compared:\n\n" + "\n".join(f"- {_cell(line, 200)}" for line in missing)
    return text


# Tables.


def _cell(text: str, letters: int = 100) -> str:
    """One line that fits into a table."""
    line = " ".join(first_line(text).split()).replace("|", "/")
    return line if len(line) <= letters else line[: letters - 1] + "…"


def _figure(value: float | None, digits: int = 0) -> str:
    return _NOTHING if value is None else f"{value:,.{digits}f}"


def _remarks(figures: Mapping[str, Any], *more: str) -> str:
    invalid = [f"**INVALID**: {first_line(figures['invalid'])}"] if figures["invalid"] else []
    return _cell("; ".join([*invalid, *figures.get("marks", ()), *more]))


def _ratio(value: float | None, base: Mapping[str, Any] | None, invalid: str) -> str:
    """A cost ÷ that of the base, if both may be used."""
    if base is None or base["invalid"] or invalid or not value or not base["cpu_us_per_request"]:
        return _NOTHING
    return f"{value / base['cpu_us_per_request']:.2f}"


def _scenario_lines(scenario: Mapping[str, Any]) -> list[tuple[str, ...]]:
    summary = scenario["summary"]
    lines: list[tuple[str, ...]] = []
    for name in in_order(summary):
        figures = summary[name]
        cost, low, high = figures["cpu_us_per_request"], figures["low"], figures["high"]
        lines.append(
            (
                name,
                _figure(figures["requests_per_second"]),
                _figure(cost, 2),
                "" if low is None or high is None else f"{low:.2f}-{high:.2f}",
                _ratio(cost, summary.get("floor"), figures["invalid"]),
                _ratio(cost, summary.get(SUBJECT), figures["invalid"]),
                _figure(figures["p50_us"]),
                _figure(figures["p99_us"]),
                _remarks(figures),
            )
        )
    return lines


_SCENARIO_HEADER = (
    "contender",
    "requests/s",
    "CPU µs/request",
    "rounds",
    "÷ floor",
    f"÷ {SUBJECT}",
    "p50 µs",
    "p99 µs",
    "remarks",
)


def _absent(parts: Sequence[Mapping[str, Any]]) -> str:
    """Who took no part and why, each reason once, with the scenarios if there are several."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for part in parts:
        for name in in_order(part["absent"]):
            reason = _cell(part["absent"][name])
            reasons.setdefault(reason, {}).setdefault(name, []).append(part["name"])
    if not reasons:
        return ""
    texts = []
    for reason, names in reasons.items():
        everywhere = all(len(where) == len(parts) for where in names.values())
        shown = [name if everywhere else f"{name} in {', '.join(where)}" for name, where in names.items()]
        texts.append(f"{', '.join(shown)} ({reason})")
    return f"Absent: {'; '.join(texts)}."


def _core_part(scenarios: Sequence[Mapping[str, Any]]) -> str:
    """A table for each scenario."""
    parts = []
    for scenario in scenarios:
        parts.append(f"**{_cell(scenario['title'])}** (`{scenario['name']}`)")
        parts.append(aligned(_SCENARIO_HEADER, _scenario_lines(scenario)))
        parts.append(_absent([scenario]))
    return _joined(parts)


def _group_part(scenarios: Sequence[Mapping[str, Any]]) -> str:
    """One table for all scenarios of a group."""
    lines = [(scenario["name"], *line) for scenario in scenarios for line in _scenario_lines(scenario)]
    titles = "; ".join(f"`{scenario['name']}`: {_cell(scenario['title'])}" for scenario in scenarios)
    table = aligned(("scenario", *_SCENARIO_HEADER), lines, left=2) if lines else ""
    return _joined([f"{titles}.", table, _absent(scenarios)])


def _quantile_cell(figures: Mapping[str, Any], name: str) -> str:
    quantile = figures["quantiles_us"].get(name)
    return _figure(quantile["value"]) if quantile is not None and quantile["shown"] else _NOTHING


def _latency_part(step: Mapping[str, Any], picture: str) -> str:
    errors = ", ".join(f"p{name} {_figure(us)} µs" for name, us in step["generator_error_us"].items())
    caption = (
        f"**{_cell(step['title'])}** (`{step['name']}`): {step['rate']:,.0f} requests/s over "
        f"{step['connections']:,} connections for {step['seconds']:g} s. The generator's own error, against "
        f"direct access: {errors}; “{_NOTHING}” where it is a tenth or more of the figure."
    )
    lines = []
    for name in in_order(step["summary"]):
        figures = step["summary"][name]
        quantiles = [_quantile_cell(figures, quantile) for quantile in _QUANTILES]
        remarks = _remarks(figures, *_errors(figures["errors"]))
        lines.append((name, *quantiles, f"{figures['failed']:,}", remarks))
    header = ("contender", *(f"p{name} µs" for name in _QUANTILES), "failed", "remarks")
    table = aligned(header, lines) if lines else ""
    return _joined([picture, caption, table, _absent([step])])


def _errors(errors: Mapping[str, int]) -> list[str]:
    return [f"{count:,} {kind}" for kind, count in errors.items() if count]


def _faults_part(faults: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for fault in faults:
        for name in in_order(fault["summary"]):
            figures = fault["summary"][name]
            more = [f"{label}: {value:,g}" for label, value in figures["figures"].items()]
            times = [_figure(figures[key]) for key in ("p50_us", "p99_us", "max_us")]
            counts = f"{figures['requests']:,}", f"{figures['failed']:,}"
            remarks = _remarks(figures, *_errors(figures["errors"]), *more)
            lines.append((fault["name"], name, *counts, *times, remarks))
    header = ("fault", "contender", "requests", "failed", "p50 µs", "p99 µs", "max µs", "remarks")
    titles = "; ".join(f"`{fault['name']}`: {_cell(fault['title'])}" for fault in faults)
    return _joined([f"{titles}.", aligned(header, lines, left=2) if lines else "", _absent(faults)])


def _memory_part(document: Document) -> str:
    idle, each, calls = (document[key] for key in ("idle_memory", "connection_memory", "system_calls"))
    lines = []
    for name in in_order(dict.fromkeys((*idle, *each, *calls))):
        size, use, count = idle.get(name), each.get(name), calls.get(name)
        lines.append(
            (
                name,
                _figure(size and size["resident"] / _MIB, 1),
                _figure(size and size["proportional"] / _MIB, 1),
                _figure(use and use["per_connection"] / _KIB, 2),
                _figure(use and use["connections"]),
                _figure(count and count["reads_and_writes_per_request"], 2),
                _figure(count and sum(count["by_name"].values()) / count["requests"], 2),
            )
        )
    header = (
        "contender",
        "idle RSS MiB",
        "idle PSS MiB",
        "KiB/connection",
        "connections",
        "reads+writes/request",
        "all calls/request",
    )
    return aligned(header, lines) if lines else ""


def _budget_part(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        spread = "" if row["low"] is None or row["high"] is None else f"{row['low']:.2f}-{row['high']:.2f}"
        figures = (_figure(row["value"], 2), spread, _figure(row["must"], 2), _figure(row["goal"], 2))
        remarks = _cell("; ".join(part for part in (row["basis"], row["note"]) if part))
        lines.append((_cell(row["title"]), *figures, row["unit"], row["verdict"], remarks))
    return aligned(("what", "measured", "rounds", "must", "goal", "unit", "verdict", "from"), lines)


# The page.


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def _environment_part(document: Document) -> str:
    machine = document["environment"]
    changed = machine["changed_files"]
    commit = f"commit {machine['commit'][:12]}" if machine["commit"] else "commit unknown"
    versions = []
    for name in in_order(machine["versions"]):
        text = _cell(machine["versions"][name])
        if name.partition("@")[0] not in ("direct", "floor"):
            versions.append(text if text.lower().startswith(name.lower()) else f"{name}: {text}")
    pinning = machine["pinning"]
    return (
        f"The run of {document['finished'][:10]} took {document['seconds'] / 60:.0f} minutes "
        f"({commit}{f', with {changed} changed files' if changed else ''}) on {machine['cpu']}, "
        f"{machine['cpus']} CPUs (the proxy on CPU {pinning['proxy']}, the load on CPU {pinning['load']}), "
        f"Linux {machine['kernel']}, {machine['machine']}; load average before it "
        f"{machine['load_average_before']:.2f}. Versions: {'; '.join(versions)}."
    )


def invalid_results(document: Document) -> list[str]:
    """`scenario, contender: reason` of each result that must not be used."""
    parts = (*document["scenarios"], *document["latency"], *document["faults"])
    return [
        f"{part['name']}, {name}: {_cell(part['summary'][name]['invalid'])}"
        for part in parts
        for name in in_order(part["summary"])
        if part["summary"][name]["invalid"]
    ]


def markdown(document: Document, folder: str = "benchmarks") -> str:
    """The generated part of the page; `folder` is where the pictures are, as the page links to them."""
    images = {name: f"![{_cell(text)}]({folder}/{name})" for name, text in pictures_of(document).items()}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for scenario in document["scenarios"]:
        groups.setdefault(scenario["group"], []).append(scenario)
    steps = [_latency_part(step, images[f"{step['name']}.svg"]) for step in document["latency"]]
    problems = [f"- {step}: {_cell(text, 200)}" for step, text in document["problems"].items()]
    invalid = [f"- {_cell(line, 200)}" for line in invalid_results(document)]
    core, further, policy = (groups.get(name, []) for name in ("core", "further", "policy"))
    sections = {
        "Core scenarios": _joined([images.get(CPU_PICTURE, ""), _core_part(core)]),
        "Latency at a constant rate": _joined(steps),
        "Memory and system calls": _joined([images.get(MEMORY_PICTURE, ""), _memory_part(document)]),
        "Further scenarios": _group_part(further) if further else "",
        "Policies": _group_part(policy) if policy else "",
        "Faults": _faults_part(document["faults"]) if document["faults"] else "",
        "Budgets": _budget_part(document["rows"]) if document["rows"] else "",
        "Where a peer is ahead": _ahead_part(document),
        "Invalid results": "\n".join(invalid),
        "Not measured": "\n".join(problems),
    }
    parts = [f"### {title}\n\n{text}" for title, text in sections.items() if text]
    return _joined([_environment_part(document), *parts])


_PATH = re.compile(r"(?<![\w.:/$}])/(?:[\w.@+-]+/)+([\w.@+-]*)")


def shareable(value: Any, key: str = "") -> Any:
    """A result without its samples, and without the folders of the machine in what programs have said."""
    if isinstance(value, Mapping):
        return {k: [] if k == "samples" else shareable(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [shareable(item) for item in value]
    # A scenario's `path` is one of URLs.
    return _PATH.sub(r"…/\1", value) if isinstance(value, str) and key != "path" else value


def check_full(document: Document, source: str) -> None:
    """BenchError unless the document is of a whole run; what is not in it must be told as a problem."""
    if document.get("suite") != "full":
        raise BenchError(f"{source}: a {document.get('suite')} run; the page shows full ones: make bench")
    names = {part["name"] for part in (*document["scenarios"], *document["latency"])}
    missing = [name for name in (*CORE, *RATES) if name not in names and name not in document["problems"]]
    measured = document["environment"]["versions"]
    missing += [name for name in ORDER if name not in measured]
    if missing:
        raise BenchError(f"{source}: {', '.join(missing)} not in it; the page shows whole runs: make bench")


def splice(page: str, generated: str, source: str) -> str:
    """The page with the text between its marks replaced; BenchError if they are not there, once each."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in head or END in tail:
        raise BenchError(
            f"{source}: put {BEGIN} and {END} where the results shall stand, in this order, once"
        )
    return f"{head}{BEGIN}\n\n{generated}\n\n{END}{tail}"


def publish(document: Document, page: Path, source: str = "the result") -> list[Path]:
    """Writes the page, its pictures and newest.json beside it; returns all paths."""
    check_full(document, source)
    shared = shareable(document)
    folder = page.with_suffix("")
    try:
        before = page.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{page}: {error.strerror}; --page names another page") from error
    text = splice(before, markdown(shared, folder.name), str(page))
    paths = draw(shared, folder)
    newest = folder / "newest.json"
    write_json(shared, newest)
    page.write_text(text, encoding="utf-8")
    return [page, newest, *paths]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.page", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("result", type=Path, help="JSON of a full run")
    parser.add_argument("--page", type=Path, default=PAGE, help="in place of docs/benchmarks.md")
    options = parser.parse_args()
    document = load(options.result)
    for path in publish(document, options.page, str(options.result)):
        print(path)
    for title, lines in (
        ("invalid", invalid_results(document)),
        ("not measured", [f"{step}: {_cell(text)}" for step, text in document["problems"].items()]),
    ):
        for line in lines:
            print(f"{title}: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
