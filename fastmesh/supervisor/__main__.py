"""``python -m fastmesh.supervisor FILE``: what ``fastmesh run FILE`` turns into, without the command line's
modules in memory."""

import sys

from fastmesh.supervisor.main import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
