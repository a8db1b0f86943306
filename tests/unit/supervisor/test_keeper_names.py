"""Names of endpoints: looked up at the start and at changes, followed, and never waited for long."""

import trio

from fastmesh.admin.control import DrainTarget
from fastmesh.discovery import Resolver
from fastmesh.discovery.answers import Hosts
from support.keeper_rig import Rig, scenario
from support.names import FakeLookups


def test_names_are_resolved_at_load_and_again(rig, caplog):
    lookups = FakeLookups({"origin.test": Hosts(("127.0.0.1",), 30.0)})
    rig.keeper.resolver = Resolver(lookups)
    rig.write("origin.test:80")

    def resolved():
        return [place.address.text for place in rig.data_plane.resolved["origin.test:80"]]

    async def test():
        assert resolved() == ["127.0.0.1:80"]
        lookups.table["origin.test"] = Hosts(("127.0.0.1", "127.0.0.2"), 30.0)
        # The file is unchanged, the names are another matter.
        assert (await rig.keeper.reload("SIGHUP")).result == "unchanged"
        assert resolved() == ["127.0.0.1:80", "127.0.0.2:80"]
        calls = len(rig.data_plane.calls)
        assert (await rig.keeper.reload("SIGHUP")).result == "unchanged"
        assert len(rig.data_plane.calls) == calls

    scenario(rig, test)
    assert "origin.test:80 now resolves to 127.0.0.1:80, 127.0.0.2:80" in caplog.text


def test_names_are_followed_and_looked_up_when_endpoints_fail(rig, caplog):
    lookups = FakeLookups({"origin.test": Hosts(("127.0.0.1",), 3600.0)})
    rig.keeper.resolver = Resolver(lookups)
    rig.write("origin.test:80")

    async def test():
        rig.data_plane.refuse = "once"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.keeper.follow_names)
            lookups.table["origin.test"] = Hosts(("127.0.0.2",), 3600.0)
            rig.data_plane.out = {("a", "127.0.0.1:80"): 1}
            while "could not be put in force: once" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.01)
            rig.data_plane.refuse = None
            while rig.keeper.resolved["origin.test:80"][0].address.host != "127.0.0.2":  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert lookups.asked == ["origin.test"] * 3  # the start, a reload, and the failure

    scenario(rig, test)


def test_a_name_that_hangs_holds_the_start_up_for_a_moment_only(rig, monkeypatch):
    """What answers is in force at once; the rest when it comes, and readiness waits for that."""
    lookups = FakeLookups({"good.test": Hosts(("127.0.0.1",), 30.0), "slow.test": trio.Event()})
    rig.keeper.resolver = Resolver(lookups)
    rig.write("good.test:80, slow.test:81")

    async def test():
        assert {name: len(found) for name, found in rig.data_plane.resolved.items()} == {
            "good.test:80": 1,
            "slow.test:81": 0,
        }
        assert list(rig.keeper.awaited()) == ["no answer yet for the name slow.test"]
        hanging, lookups.table["slow.test"] = lookups.table["slow.test"], Hosts(("127.0.0.2",), 30.0)
        hanging.set()
        async with trio.open_nursery() as nursery:
            rig.data_plane.refuse = "not now"
            monkeypatch.setattr("fastmesh.supervisor.keeper.RETRY_SECONDS", 0.05)
            nursery.start_soon(rig.keeper.follow_names)
            while list(rig.keeper.awaited()) != ["the addresses of names are not in force yet"]:  # noqa: ASYNC110
                await trio.sleep(0.005)
            rig.data_plane.refuse = None
            while list(rig.keeper.awaited()):  # noqa: ASYNC110
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
        assert [len(found) for found in rig.data_plane.resolved.values()] == [1, 1]

    async def start(rig, nursery):
        await rig.keeper.load()
        with trio.fail_after(3):
            await rig.keeper.apply_first(rig.data_plane, 0.1)

    monkeypatch.setattr(Rig, "start", start)
    scenario(rig, test)


def test_a_slow_lookup_keeps_nobody_waiting(rig):
    lookups = FakeLookups({"slow.test": trio.Event()})
    rig.keeper.resolver = Resolver(lookups)

    async def test():
        rig.write("slow.test:80")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.keeper.reload, "SIGHUP")
            while not lookups.asked:  # noqa: ASYNC110
                await trio.sleep(0.01)
            with trio.fail_after(2):
                assert (await rig.keeper.set_drain(DrainTarget("service", "a"), True)).changed
            lookups.table["slow.test"].set()
        assert rig.data_plane.resolved == {"slow.test:80": ()}

    scenario(rig, test)


def test_a_name_that_hangs_holds_a_change_up_for_a_moment_only(rig):
    lookups = FakeLookups({"slow.test": trio.Event()})
    rig.keeper.resolver = Resolver(lookups)
    rig.write("127.0.0.1:80")

    async def test():
        rig.write("127.0.0.1:80, slow.test:80")
        with trio.fail_after(1):
            assert (await rig.keeper.reload("SIGHUP")).result == "applied"
        assert [len(found) for found in rig.data_plane.resolved.values()] == [0]

    scenario(rig, test)


def test_a_service_that_would_have_no_address_waits_for_its_name(rig):
    """What it had serves meanwhile."""

    class Slow(FakeLookups):
        async def hosts(self, name):
            await trio.sleep(1)
            return await super().hosts(name)

    rig.keeper.resolver = Resolver(Slow({"slow.test": Hosts(("127.0.0.2",), 30.0)}))

    async def test():
        rig.write("slow.test:80")
        began = trio.current_time()
        assert (await rig.keeper.reload("SIGHUP")).result == "applied"
        assert trio.current_time() - began > 1
        assert [[place.address.text for place in found] for found in rig.data_plane.resolved.values()] == [
            ["127.0.0.2:80"]
        ]

    scenario(rig, test)


def test_a_long_list_of_addresses_is_cut_short_in_the_log(rig, caplog):
    lookups = FakeLookups({"many.test": Hosts(("127.0.0.1",), 30.0)})
    rig.keeper.resolver = Resolver(lookups)
    rig.write("many.test:80")

    async def test():
        lookups.table["many.test"] = Hosts(tuple(f"127.0.1.{number}" for number in range(100)), 30.0)
        await rig.keeper.reload("SIGHUP")

    scenario(rig, test)
    (line,) = [line for line in caplog.messages if "now resolves to" in line]
    assert line.count("127.0.1.") == 20
    assert line.endswith(" and 80 more")
