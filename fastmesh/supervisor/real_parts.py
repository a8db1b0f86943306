"""The parts of the real process."""

from __future__ import annotations
