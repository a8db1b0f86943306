"""Starting the process that takes over from this one, as this one was started.

It becomes nobody's child at once (its parent ends), which is a service manager's: systemd does not wait for
the end of a main process that is somebody else's child, but kills it.
"""

from __future__ import annotations

import os
import sys

import trio

VARIABLE = "FASTMESH_SUCCESSOR"  # the number of a pipe's end


class Started:
    """A process that was started; ``pid`` is 0 if it did not even begin."""

    def __init__(self, pid: int, pipe: trio.lowlevel.FdStream) -> None:
        self.pid = pid
        self._pipe = pipe

    async def ended(self) -> None:
        """Waits for its end, or for that of its interest in this process."""
        async with self._pipe:
            while await self._pipe.receive_some():
                pass


async def start() -> Started:
    """The same command again, as it is installed by now, with the same environment and standard streams.
    Raises OSError."""
    ours, theirs = os.pipe()
    pipe = trio.lowlevel.FdStream(ours)
    try:
        child = await trio.lowlevel.open_process(
            [sys.executable, *sys.orig_argv[1:]],
            pass_fds=[theirs],
            env={**os.environ, VARIABLE: str(theirs)},
        )
    except BaseException:
        await pipe.aclose()
        raise
    finally:
        os.close(theirs)
    await child.wait()
    said = await pipe.receive_some()
    return Started(int(said or 0), pipe)


def detach() -> None:
    """To be called first by every process: one that was started by `start` goes on as nobody's child."""
    number = os.environ.pop(VARIABLE, None)
    if number is None:
        return
    pipe = int(number)
    if os.fork():
        os._exit(0)
    os.set_inheritable(pipe, False)  # open to the end, which the other side sees
    os.write(pipe, b"%d" % os.getpid())
