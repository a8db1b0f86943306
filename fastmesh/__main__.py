"""``python -m fastmesh``: the same as the command ``fastmesh``."""

import sys

from fastmesh.cli import main

if __name__ == "__main__":
    sys.exit(main())
