"""A keeper with a file, a port and a data plane that only remembers what it was told."""

import trio

from fastmesh.observability.metrics import ReloadCounts
from fastmesh.supervisor.keeper import ConfigKeeper
from support.fake_data_plane import FakeDataPlane
from support.ports import free_port

FILE = """\
admin: off
{more}
listeners:
  web: {{bind: "127.0.0.1:{port}", routes: {{/: a}}}}
services:
  a: {{endpoints: [{endpoints}]}}
"""


class Rig:
    def __init__(self, folder):
        self.port = free_port()
        self.file = folder / "fastmesh.yaml"
        self.write()
        self.keeper = ConfigKeeper(str(self.file))
        self.data_plane = FakeDataPlane(workers=1, connection_limit=1)

    def write(self, endpoints="127.0.0.1:1", more=""):
        self.file.write_text(FILE.format(port=self.port, endpoints=endpoints, more=more))

    async def start(self, nursery):
        await self.keeper.load()
        await self.keeper.apply_first(self.data_plane)
        nursery.start_soon(self.keeper.watch)
        # The watcher begins with a look of its own, which would take what the test writes before its reload
        # does.
        await self.keeper.reload("start")
        self.keeper.counts = ReloadCounts()


def scenario(rig, test):
    """Runs ``test`` with the keeper started and watching."""

    async def main():
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await rig.start(nursery)
                await test()
                nursery.cancel_scope.cancel()

    trio.run(main)
