"""The pictures of a made-up result: who is in them, what is marked, and that they are the same each time."""

import copy
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from bench import pictures
from bench.harness.place import ROOT, BenchError
from support.bench_document import ORDER, full_document

NAMES = ["cpu-per-request.svg", "latency-25.svg", "latency-50.svg", "latency-75.svg", "memory.svg"]


def texts(path: Path) -> list[str]:
    """All texts of a picture, which must be XML."""
    found = ElementTree.fromstring(path.read_bytes()).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()) for text in found]


def drawn(document: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    return {path.name: texts(path) for path in pictures.draw(document, folder)}


def named(name: str, lines: list[str]) -> bool:
    return any(line == name or line.startswith((f"{name},", f"{name}:")) for line in lines)


def test_each_contender_is_named_in_each_picture(tmp_path: Path) -> None:
    found = drawn(full_document(), tmp_path / "new")
    assert list(found) == NAMES
    for picture, lines in found.items():
        missing = [name for name in ORDER if not named(name, lines)]
        # Direct access is no process of its own; the fixture has no memory of the floor.
        expected = {"cpu-per-request.svg": ["direct"], "memory.svg": ["direct", "floor"]}
        assert missing == expected.get(picture, []), picture


def test_every_figure_stands_beside_its_bar(tmp_path: Path) -> None:
    found = drawn(full_document(), tmp_path)
    assert {"9.95 µs", "10.55 µs · 1.06×", "896.8 µs · 5.90×"} <= set(found["cpu-per-request.svg"])
    assert {"0.24", "39.60", "23.0 (31.7)"} <= set(found["memory.svg"])
    assert "fastmesh, p99 135 µs" in found["latency-25.svg"]
    assert "fastmesh, p90 252 µs" in found["latency-75.svg"]  # the generator's error hides its p99


def test_an_invalid_or_absent_contender_is_marked_and_shows_no_figure(tmp_path: Path) -> None:
    document = full_document()
    document["latency"][0]["summary"]["envoy"]["invalid"] = "12 timeouts\nand more"
    document["latency"][0]["absent"] = {"caddy": "ended"}
    del document["latency"][0]["summary"]["caddy"]
    found = drawn(document, tmp_path)
    cost = found["cpu-per-request.svg"]
    assert cost.count("INVALID: failed requests: 12 read") == 1
    assert "absent: has no TCP mode" in cost
    assert "invalid, not drawn" in cost
    assert not [line for line in cost if line.startswith("126.9")]  # traefik's cost in `close`
    assert "envoy: INVALID: 12 timeouts" in found["latency-25.svg"]
    assert "caddy: absent: ended" in found["latency-25.svg"]


@pytest.mark.parametrize("cost", [None, 9.95])
def test_an_invalid_floor_is_no_base(cost: float | None, tmp_path: Path) -> None:
    document = full_document()
    for scenario in document["scenarios"]:
        scenario["summary"]["floor"]["invalid"] = "failed requests: 1 read"
        scenario["summary"]["floor"]["cpu_us_per_request"] = cost
    cost = drawn(document, tmp_path)["cpu-per-request.svg"]
    assert "10.55 µs" in cost
    assert cost.count("INVALID: failed requests: 1 read") == 6


def test_a_bar_is_the_floors_part_and_what_the_proxy_adds() -> None:
    panel = pictures._cpu_figure([full_document()["scenarios"][0]]).axes[0]
    fastmesh = [bar for bar in panel.patches if round(bar.get_y() + bar.get_height() / 2) == 1]
    shared, own = fastmesh
    assert (shared.get_x(), shared.get_width()) == (0, pytest.approx(9.95))
    assert shared.get_hatch()
    assert not own.get_hatch()
    assert own.get_x() + own.get_width() == pytest.approx(9.95 * 1.06)


def test_one_wild_round_does_not_flatten_the_others() -> None:
    scenario = full_document()["scenarios"][0]
    scenario["summary"]["fastmesh"]["high"] = 1e6
    panel = pictures._cpu_figure([scenario]).axes[0]
    assert panel.get_xlim()[1] < 3 * scenario["summary"]["caddy"]["cpu_us_per_request"]


SCRIPT = """
import sys
from pathlib import Path
from bench.pictures import draw
from support.bench_document import full_document
draw(full_document(), Path(sys.argv[1]))
"""


def test_the_same_document_gives_the_same_bytes(tmp_path: Path) -> None:
    here = pictures.draw(full_document(), tmp_path / "here")
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "there")], check=True, env=env)
    for path in here:
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_a_users_style_changes_nothing_and_is_kept(tmp_path: Path) -> None:
    plain = pictures.draw(full_document(), tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "svg.fonttype": "path"}):
        styled = pictures.draw(full_document(), tmp_path / "styled")
        assert matplotlib.rcParams["font.size"] == 20
    assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in styled]


def test_the_background_is_white_and_no_date_is_told(tmp_path: Path) -> None:
    for path in pictures.draw(full_document(), tmp_path):
        text = path.read_text()
        background = text.partition('id="patch_1"')[2].partition("</g>")[0]
        assert "fill: #ffffff" in background, path.name
        assert "<dc:date>" not in text


@pytest.mark.parametrize("keep", [{"fastmesh"}, {"fastmesh", "caddy"}, set()])
def test_few_contenders_or_none(keep: set[str], tmp_path: Path) -> None:
    document = full_document()
    for part in (*document["scenarios"], *document["latency"]):
        part["summary"] = {name: figures for name, figures in part["summary"].items() if name in keep}
        part["absent"] = {}
    for key in ("idle_memory", "connection_memory"):
        document[key] = {name: sizes for name, sizes in document[key].items() if name in keep}
    for lines in drawn(document, tmp_path).values():
        assert {name for name in ORDER if named(name, lines)} == keep


def test_labelled_contenders_stand_behind_their_name(tmp_path: Path) -> None:
    document = full_document()
    core = [scenario for scenario in document["scenarios"] if scenario["group"] == "core"]
    for part in (*core, *document["latency"]):
        for name in ("nginx@own", "fastmesh@before"):
            part["summary"][name] = copy.deepcopy(part["summary"][name.partition("@")[0]])
    for picture, lines in drawn(document, tmp_path).items():
        if picture != "memory.svg":
            assert named("nginx@own", lines), picture
            assert named("fastmesh@before", lines), picture
    names = ["caddy", "nginx@own", "mine", "nginx", "direct"]
    assert pictures.in_order(names) == ["direct", "nginx", "nginx@own", "caddy", "mine"]


def test_what_a_program_said_does_not_spoil_the_picture(tmp_path: Path) -> None:
    document = full_document()
    scenario = document["scenarios"][0]
    scenario["summary"]["envoy"]["invalid"] = "<b> & $\\frac$ \x1b[31mred"
    scenario["title"] = "a title that does not end " * 20
    lines = drawn(document, tmp_path)["cpu-per-request.svg"]
    assert "INVALID: <b> & $\\frac$ [31mred" in lines


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    document = full_document()
    document.update(latency=document["latency"][:1], idle_memory={}, connection_memory={})
    assert list(pictures.pictures_of(document)) == list(drawn(document, tmp_path)) == NAMES[:2]
    document["scenarios"] = [s for s in document["scenarios"] if s["group"] != "core"]
    assert list(pictures.pictures_of(document)) == NAMES[1:2]


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match=r"pip install '\.\[bench\]'"):
        pictures.draw(full_document(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def shown(*flags: bool) -> dict[str, dict[str, Any]]:
    names = ("50", "90", "99", "99.9")
    return {name: {"value": 1.0, "shown": flag} for name, flag in zip(names, flags, strict=True)}


POINTS = [[0.0, 1.0], [50.0, 2.0], [90.0, 3.0], [99.0, 4.0], [99.9, 5.0], [99.95, 6.0], [100.0, 7.0]]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        # Behind the last quantile that was judged, nothing is known of the error.
        ((True, True, True, True), [(True, [0, 50, 90, 99, 99.9]), (False, [99.9, 99.95])]),
        ((True, True, False, False), [(True, [0, 50, 90]), (False, [90, 99, 99.9, 99.95])]),
        ((False, True, False, True), [(False, [0, 50]), (True, [50, 90]), (False, [90, 99])]),
        ((False, False, False, False), [(False, [0, 50, 90, 99, 99.9, 99.95])]),
    ],
)
def test_a_curve_is_cut_where_trust_ends(flags: tuple[bool, ...], expected: list[Any]) -> None:
    found = [(solid, [p for p, _ in part]) for solid, part in pictures.curve(POINTS, shown(*flags))]
    assert found[: len(expected)] == expected


def test_a_curve_holds_latencies_alone() -> None:
    points = [[0.0, 0.0], [50.0, 2.0], [90.0, 3.0], [99.995, 9.0]]
    assert list(pictures.curve(points, shown(True, True, True, True))) == [(True, [(50.0, 2.0), (90.0, 3.0)])]
    assert list(pictures.curve([], {})) == []


@pytest.mark.parametrize(
    ("low", "high", "first", "last"),
    [
        (100, 110, 100, 200),
        (100, 100, 100, 200),
        (210, 480, 200, 500),
        (38, 1500, 20, 2000),
        (2, 5e7, 1, 1e8),
    ],
)
def test_ticks_enclose_all_latencies(low: float, high: float, first: float, last: float) -> None:
    ticks = pictures.latency_ticks(low, high)
    assert (ticks[0], ticks[-1]) == (pytest.approx(first), pytest.approx(last))
    assert 2 <= len(ticks) <= 14


def test_numbers_and_durations() -> None:
    assert [pictures.number(value) for value in (0.236, 10.5, 308.79, 1234.5)] == [
        "0.24",
        "10.50",
        "308.8",
        "1,234",
    ]
    assert [pictures.duration(us) for us in (0.25, 84.04, 999, 1500, 136_784, 2e6)] == [
        "0.25 µs",
        "84 µs",
        "999 µs",
        "1.5 ms",
        "137 ms",
        "2 s",
    ]
