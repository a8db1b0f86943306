"""``python -m fastmesh.supervisor FILE [TAKEOVER]``: what ``fastmesh run FILE --takeover TAKEOVER`` turns
into, without the command line's modules in memory."""

import sys

from fastmesh.supervisor.main import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1], takeover=sys.argv[2] if len(sys.argv) > 2 else None))
