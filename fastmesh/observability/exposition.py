"""Writing the Prometheus text format 0.0.4: help and type once a family, labels escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABEL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


def labels(pairs: Mapping[str, object]) -> str:
    """``{a="1",b="2"}``, or nothing when there are none."""
    if not pairs:
        return ""
    inside = ",".join(f'{name}="{str(value).translate(_LABEL_ESCAPES)}"' for name, value in pairs.items())
    return "{" + inside + "}"


def number(value: float) -> str:
    """The shortest text that reads back as ``value``; whole numbers without a point."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return str(int(value))
    return repr(value)


class Exposition:
    """Collects families in order; each is announced even when it has no sample yet."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: Literal["counter", "gauge", "histogram"], help: str) -> None:
        self._lines.append(f"# HELP {name} {help.translate(_HELP_ESCAPES)}")
        self._lines.append(f"# TYPE {name} {kind}")

    def sample(self, name: str, pairs: Mapping[str, object], value: float) -> None:
        self._lines.append(f"{name}{labels(pairs)} {number(value)}")

    def simple(
        self,
        name: str,
        kind: Literal["counter", "gauge"],
        help: str,
        samples: Iterable[tuple[Mapping[str, object], float]],
    ) -> None:
        self.family(name, kind, help)
        for pairs, value in samples:
            self.sample(name, pairs, value)

    def histogram(
        self,
        name: str,
        pairs: Mapping[str, object],
        bounds: Sequence[float],
        counts: Sequence[int],
        total: float,
    ) -> None:
        """``counts`` are cumulative, one for each bound and the last for +Inf; ``total`` is the sum of
        values."""
        inner = labels(pairs)[1:-1]
        prefix = f"{name}_bucket{{{inner}," if inner else f"{name}_bucket{{"
        for bound, count in zip([*map(number, bounds), "+Inf"], counts, strict=True):
            self._lines.append(f'{prefix}le="{bound}"}} {count}')
        self.sample(f"{name}_sum", pairs, total)
        self.sample(f"{name}_count", pairs, counts[-1])

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"
