"""Handing memory back to the system after something big is done: a start, a reload."""

from __future__ import annotations

import ctypes  # trio has loaded it already
import gc

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not


def give_back() -> None:
    """Collects cycles and returns free heap pages. Takes some milliseconds; not for a hot path."""
    gc.collect()
    if _trim is not None:
        _trim(0)
