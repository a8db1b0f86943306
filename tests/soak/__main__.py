"""Starts the soak run: `python -m tests.soak`, in the checkout's folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest has it

from soak.command import main

sys.exit(main())
