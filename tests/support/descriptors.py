"""What descriptors of this process stand for.

Other tests' threads may close theirs at any time, so tests look at the kind that they are about, and not at
the number of all.
"""

from pathlib import Path


def open_descriptors(kind: str) -> list[str]:
    """Targets of the open descriptors that contain ``kind`` (a path, ``socket:``, ``inotify``), sorted."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if kind in target:
            targets.append(target)
    return sorted(targets)
