"""The progress of a drain on a terminal and elsewhere."""

import io

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
