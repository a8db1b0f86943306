"""Starts the fault tests: `python -m tests.chaos`, in the checkout's folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest has it

from chaos.command import main

sys.exit(main())
