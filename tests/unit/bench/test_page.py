"""docs/benchmarks.md from a made-up result: its tables, and plainly where a peer is ahead."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench import compare, page
from bench.harness.place import BenchError
from support.bench_document import full_document

HAND = "# Benchmarks\n\nBy hand.\n\n{}\n## What is measured\n\nBy hand too.\n"
MARKED = HAND.format(f"{page.BEGIN}\nold text\n{page.END}\n")


def section(text: str, title: str) -> str:
    return text.partition(f"### {title}\n")[2].partition("\n### ")[0]


def cells(text: str, *first: str) -> list[str]:
    """The cells of the only line of a table that begins so."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    (found,) = [row for row in rows if row[: len(first)] == list(first)]
    return found


def core_table(text: str, scenario: str) -> str:
    return text.partition(f"(`{scenario}`)")[2].partition("\n**")[0]


def test_the_core_table() -> None:
    table = core_table(page.markdown(full_document()), "small")
    assert cells(table, "direct")[1:7] == ["55,556", "–", "", "–", "–", "420"]
    assert cells(table, "floor")[2:6] == ["9.95", "9.65-10.55", "1.00", "0.94"]
    assert cells(table, "nginx") == [
        *("nginx", "37,003", "15.02", "14.27-16.53"),
        *("1.51", "1.42", "1,051", "3,906", ""),
    ]
    assert cells(table, "traefik")[-1] == "load-limited"


def test_invalid_and_absent_are_shown_as_such() -> None:
    text = page.markdown(full_document())
    traefik = cells(core_table(text, "close"), "traefik")
    assert traefik[4:6] == ["–", "–"]  # no ratio from what is invalid
    assert traefik[-1] == "**INVALID**: failed requests: 12 read; load-limited"
    assert "Absent: caddy (has no TCP mode)." in core_table(text, "tcp")
    assert "- close, traefik: failed requests: 12 read" in section(text, "Invalid results")
    assert "Absent: direct, traefik, caddy (left out of further scenarios)." in text


@pytest.mark.parametrize(("base", "column"), [("floor", 4), ("fastmesh", 5)])
def test_no_ratio_to_an_invalid_base(base: str, column: int) -> None:
    document = full_document()
    document["scenarios"][0]["summary"][base]["invalid"] = "failed requests: 1 read"
    nginx = cells(core_table(page.markdown(document), "small"), "nginx")
    assert nginx[column] == "–"
    assert nginx[9 - column] != "–"


def test_absence_from_some_scenarios_names_them() -> None:
    document = full_document()
    further = [s for s in document["scenarios"] if s["group"] == "further"]
    del further[1]["summary"]["envoy"]
    further[1]["absent"] = {**further[1]["absent"], "envoy": "it | ended\nlong story"}
    text = section(page.markdown(document), "Further scenarios")
    assert "; envoy in post-64k (it / ended)." in text


def test_the_latency_tables() -> None:
    text = section(page.markdown(full_document()), "Latency at a constant rate")
    low, _, rest = text.partition("(`latency-50`)")
    assert "p50 4 µs, p90 6 µs, p99 12 µs, p99.9 90 µs" in low
    assert "3,000 requests/s" in low
    assert cells(low, "fastmesh") == ["fastmesh", "92", "108", "135", "–", "0", ""]
    assert cells(low, "caddy")[4] == "1,125"
    assert cells(rest.partition("(`latency-75`)")[2], "fastmesh")[3:5] == ["–", "–"]


def test_faults_memory_and_policies() -> None:
    text = page.markdown(full_document())
    faults = section(text, "Faults")
    assert cells(faults, "changes", "fastmesh")[-1] == "changes: 100; slowest change, ms: 88.4"
    assert cells(faults, "failing", "nginx")[2:] == ["30,000", "40", "220", "4,900", "44,100", "40 status"]
    assert "**INVALID**: ended with exit code 1" in cells(faults, "killed", "envoy")[-1]
    memory = section(text, "Memory and system calls")
    assert cells(memory, "fastmesh")[1:6] == ["31.7", "23.0", "0.24", "9,500", "4.01"]
    assert cells(memory, "nginx")[5] == "–"
    assert cells(section(text, "Policies"), "policy-maglev", "fastmesh")[3] == "10.60"
    budget = "CPU per small keep-alive request, 64 connections, ÷ relay floor"
    assert cells(section(text, "Budgets"), budget)[1:5] == ["1.06", "1.03-1.09", "1.20", "1.10"]


def test_tables_line_up_and_pictures_have_words() -> None:
    text = page.markdown(full_document(), "shots")
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1, block
            assert len({line.count("|") for line in block.splitlines()}) == 1, block
    for name in ("cpu-per-request", "latency-25", "latency-50", "latency-75", "memory"):
        before = text.partition(f"](shots/{name}.svg)")[0]
        assert len(before.rpartition("![")[2]) > 20, name


def test_the_environment() -> None:
    document = full_document()
    assert "commit 0123456789ab)" in page.markdown(document)
    document["environment"]["changed_files"] = 3
    first = page.markdown(document).partition("\n\n")[0]
    assert "commit 0123456789ab, with 3 changed files" in first
    assert "AMD EPYC" in first
    assert "; nginx/1.22.1; " in first
    document["environment"]["versions"] = {"envoy": "1.40.0", "floor": "bench/relay_floor.c"}
    assert page.markdown(document).partition("\n\n")[0].endswith("Versions: envoy: 1.40.0.")


def test_what_was_not_measured_is_told() -> None:
    document = full_document()
    document["problems"] = {"drain": "nginx did not end\nlong story"}
    assert section(page.markdown(document), "Not measured").strip() == "- drain: nginx did not end"


# Where a peer is ahead.


def contested(part: str, name: str, document: dict[str, Any]) -> dict[str, Any]:
    """The summary by contender of a scenario, a rate or a fault."""
    (found,) = [item for item in document[part] if item["name"] == name]
    return found["summary"]


def nobody_ahead() -> dict[str, Any]:
    document = full_document()
    document["idle_memory"]["fastmesh"] = {"resident": 1 << 20, "proportional": 1 << 20}
    contested("faults", "killed", document)["fastmesh"]["failed"] = 0
    return document


def ahead(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(lead.what, lead.peer, lead.by) for lead in page.leads(document)]


def test_nobody_is_ahead() -> None:
    document = nobody_ahead()
    assert ahead(document) == []
    assert "by whatever little: none." in section(page.markdown(document), "Where a peer is ahead")


@pytest.mark.parametrize("scenario", ["small", "tcp", "post-64k"])
def test_ahead_in_cpu_per_request(scenario: str) -> None:
    document = nobody_ahead()
    summary = contested("scenarios", scenario, document)
    cost = summary["fastmesh"]["cpu_us_per_request"]
    summary["nginx"].update(cpu_us_per_request=cost * 0.75, low=cost * 0.7, high=cost * 0.8)
    assert ahead(document) == [(f"CPU per request, {scenario}", "nginx", "25% less")]
    assert page.leads(document)[0].note == ""
    summary["nginx"]["cpu_us_per_request"] = cost
    assert ahead(document) == []


def test_a_small_lead_within_the_rounds_is_told_as_such() -> None:
    document = nobody_ahead()
    summary = contested("scenarios", "small", document)
    summary["nginx"] = copy.deepcopy(summary["fastmesh"])
    summary["nginx"]["cpu_us_per_request"] *= 0.998
    (lead,) = page.leads(document)
    assert (lead.by, lead.note) == ("0.2% less", "the ranges of the rounds overlap")
    text = section(page.markdown(document), "Where a peer is ahead")
    assert cells(text, "CPU per request, small", "nginx")[2:] == ["10.53 µs", "10.55 µs", lead.by, lead.note]


def test_ahead_in_latency() -> None:
    document = nobody_ahead()
    p99 = contested("latency", "latency-50", document)["envoy"]["quantiles_us"]["99"]
    p99["value"] = 98.0  # of fastmesh's 196
    assert [lead[:2] for lead in ahead(document)] == [("p99, latency-50", "envoy")]
    p99["shown"] = False
    assert ahead(document) == []
    assert "p99, latency-50: no valid figure of envoy" in page.not_compared(document)


def test_ahead_in_memory() -> None:
    document = nobody_ahead()
    document["idle_memory"]["nginx"] = {"resident": 3 << 20, "proportional": 1 << 19}
    document["connection_memory"]["caddy"]["per_connection"] = 24.576
    assert ahead(document) == [
        ("idle memory, proportional", "nginx", "50% less"),
        ("memory of an idle connection", "caddy", "90% less"),
    ]


def test_ahead_in_failed_requests() -> None:
    document = full_document()
    assert ahead(document)[-1] == ("failed requests, killed", "nginx", "2 fewer")  # envoy's 0 is invalid
    assert page.leads(document)[-1].theirs == "1 of 30,000"
    assert "failed requests, killed: no valid figure of envoy" in page.not_compared(document)


@pytest.mark.parametrize("invalid", ["nginx", "fastmesh"])
def test_an_invalid_figure_is_never_compared(invalid: str) -> None:
    document = nobody_ahead()
    for part, name in (("scenarios", "small"), ("latency", "latency-25"), ("faults", "slow")):
        summary = contested(part, name, document)
        summary[invalid]["invalid"] = "failed requests: 1 read"
        if part == "scenarios":
            summary["nginx"]["cpu_us_per_request"] = 1.0
        elif part == "latency":
            summary["nginx"]["quantiles_us"]["99"] = {"value": 1.0, "shown": True}
        else:
            summary["fastmesh"]["failed"] = 5
    leads = [what for what, peer, _ in ahead(document) if peer == "nginx" or invalid == "fastmesh"]
    assert leads == []
    for what in ("CPU per request, small", "p99, latency-25", "failed requests, slow"):
        assert f"{what}: no valid figure of {invalid}" in page.not_compared(document)


def test_a_result_without_any_figure_is_told() -> None:
    document = nobody_ahead()
    contested("scenarios", "small", document)["envoy"].update(
        cpu_us_per_request=None, low=None, high=None, invalid="nothing answered"
    )
    del contested("latency", "latency-25", document)["envoy"]["quantiles_us"]["99"]
    assert {
        "CPU per request, small: no valid figure of envoy",
        "p99, latency-25: no valid figure of envoy",
    } <= {*page.not_compared(document)}
    assert cells(core_table(page.markdown(document), "small"), "envoy")[2:6] == ["–", "", "–", "–"]


def test_only_peers_count() -> None:
    document = nobody_ahead()
    summary = contested("scenarios", "small", document)
    for name in ("floor", "fastmesh@before", "nginx@own"):
        summary[name] = {**summary["fastmesh"], "cpu_us_per_request": 1.0}
    assert [peer for _, peer, _ in ahead(document)] == ["nginx@own"]


# The file.


def test_what_is_written_by_hand_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "benchmarks.md"
    target.write_text(MARKED, encoding="utf-8")
    paths = page.publish(full_document(), target)
    text = target.read_text(encoding="utf-8")
    before, after = HAND.split("{}")
    assert text.startswith(before + page.BEGIN)
    assert text.endswith(page.END + "\n" + after)
    assert "old text" not in text
    assert "### Where a peer is ahead" in text
    assert paths[:2] == [target, tmp_path / "benchmarks/newest.json"]
    assert {*(tmp_path / "benchmarks").glob("*.svg")} == {*paths[2:]}
    assert all(f"](benchmarks/{path.name})" in text for path in paths[2:])
    page.publish(full_document(), target)
    assert target.read_text(encoding="utf-8") == text


def test_newest_json_is_a_result_and_gives_the_same_page(tmp_path: Path) -> None:
    target = tmp_path / "benchmarks.md"
    target.write_text(MARKED, encoding="utf-8")
    page.publish(full_document(), target)
    newest = compare.load(tmp_path / "benchmarks/newest.json")
    assert all(scenario["samples"] == [] for scenario in newest["scenarios"])
    assert page.markdown(newest) == page.markdown(full_document())


def test_nothing_tells_where_the_run_took_place(tmp_path: Path) -> None:
    document = full_document()
    document["problems"] = {"drain": "cannot read /srv/some-body/bench/x.log: gone"}
    document["scenarios"][0]["summary"]["envoy"]["invalid"] = "see /srv/some-body/output.log"
    document["scenarios"][0]["path"] = "/bytes/1024"
    target = tmp_path / "benchmarks.md"
    target.write_text(MARKED, encoding="utf-8")
    page.publish(document, target)
    newest = (tmp_path / "benchmarks/newest.json").read_text()
    for path in (target, *(tmp_path / "benchmarks").iterdir()):
        assert "some-body" not in path.read_text(encoding="utf-8"), path
    assert json.loads(newest)["problems"]["drain"] == "cannot read …/x.log: gone"
    assert json.loads(newest)["scenarios"][0]["path"] == "/bytes/1024"
    assert page.shareable("http://127.0.0.1:80/a/b") == "http://127.0.0.1:80/a/b"


@pytest.mark.parametrize(
    "text",
    [
        HAND.format(""),
        HAND.format(page.BEGIN),
        HAND.format(page.END),
        HAND.format(f"{page.END}\n{page.BEGIN}\n"),
        MARKED + page.BEGIN,
        MARKED + page.END,
        page.END + MARKED,
    ],
)
def test_missing_or_doubled_marks_are_told_and_nothing_is_written(text: str, tmp_path: Path) -> None:
    target = tmp_path / "benchmarks.md"
    target.write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match=r"benchmarks\.md: put <!-- results: begin --> and .* in this order"):
        page.publish(full_document(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.md"]
    assert target.read_text(encoding="utf-8") == text


def test_only_a_whole_full_run_is_shown(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="a quick run; the page shows full ones"):
        page.publish({**full_document(), "suite": "quick"}, tmp_path / "page.md")
    document = full_document()
    document["scenarios"] = [s for s in document["scenarios"] if s["name"] != "close"]
    document["latency"] = document["latency"][1:]
    with pytest.raises(BenchError, match="close, latency-25 not in it"):
        page.check_full(document, "x")
    document["problems"] = {"close": "wrk did not end", "latency-25": "no capacity known"}
    page.check_full(document, "x")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result, target = tmp_path / "full.json", tmp_path / "benchmarks.md"
    result.write_text(json.dumps({**full_document(), "problems": {"drain": "nginx did not end"}}))
    monkeypatch.setattr("sys.argv", ["page", str(result), "--page", str(target)])
    with pytest.raises(BenchError, match=r"No such file.*--page"):
        page.main()
    target.write_text(MARKED, encoding="utf-8")
    assert page.main() == 0
    printed = capsys.readouterr().out
    assert "invalid: close, traefik: failed requests: 12 read" in printed
    assert "not measured: drain: nginx did not end" in printed
    assert str(tmp_path / "benchmarks/memory.svg") in printed
