"""Puts the tests' shared ``balancing`` module in reach."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
