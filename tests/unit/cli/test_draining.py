"""The progress of a drain on a terminal and elsewhere."""

import io

from fastmesh.cli import draining
from fastmesh.cli.draining import Display


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_one_line_changes():
    out = Terminal()
    display = Display(out)
    for text in ("draining: 100 left", "draining: 99 left", "draining: 99 left"):
        display.show(text)
    display.end("ended")
    assert out.getvalue() == "\rdraining: 100 left\x1b[K\rdraining: 99 left\x1b[K\nended\n"


def test_elsewhere_a_line_a_second_that_says_something_new():
    out = io.StringIO()
    clock = [0.0]
    display = Display(out, lambda: clock[0])
    for at, text in ((0, "3 left"), (0.5, "2 left"), (1.2, "1 left"), (5, "1 left"), (6, "0 left")):
        clock[0] = at
        display.show(text)
    display.end("ended")
    assert out.getvalue() == "3 left\n1 left\n0 left\nended\n"


def test_the_end_alone():
    out = Terminal()
    Display(out).end("ended")
    assert out.getvalue() == "ended\n"


def test_what_outbound_waits_for_is_shown():
    progress = {"in_progress": 2, "tunnels": 0, "connections": 3, "seconds": 7.2, "timeout": 30.0}
    line = draining._process_line({**progress, "waits_for": "process 7 has ended"})
    assert line == (
        "draining: 2 in progress, 3 connections, outbound goes on until process 7 has ended, 7 s of 30 s"
    )
    for without in ({**progress, "waits_for": None}, progress):  # that of an older process has no such key
        assert draining._process_line(without) == "draining: 2 in progress, 3 connections, 7 s of 30 s"
