"""dnspython without what it imports for others: 1.1 MiB of a process that has 32.

It looks for the versions of optional packages by importlib.metadata, which brings email, zipfile and csv
along. The only one of them that matters to host names is idna, for those beyond ASCII, which no configuration
has.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from types import ModuleType

METADATA = "importlib.metadata"


def prepare() -> None:
    """To be called before the first import of dnspython. A version that has other ways is only larger."""
    if METADATA in sys.modules:
        return
    # Its questions are asked when something is used, and are answered by `force` or by "not there".
    sys.modules[METADATA] = ModuleType(METADATA)
    try:
        with suppress(ImportError, AttributeError):
            importlib.import_module("dns._features").force("idna", False)
    finally:
        del sys.modules[METADATA]
