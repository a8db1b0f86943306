"""`bench` is not installed: the root goes to the end of the path, behind what is installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
