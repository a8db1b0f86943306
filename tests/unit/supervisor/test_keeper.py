"""Reloads: applied, unchanged, refused; what is logged, counted and kept."""

import socket

import pytest
import trio

from fastmesh.admin.control import DrainRefused, DrainTarget
from fastmesh.discovery import Resolver
from fastmesh.discovery.answers import Hosts
from fastmesh.errors import ConfigError, StartError
from fastmesh.supervisor.keeper import ConfigKeeper
from support.keeper_rig import scenario
from support.names import FakeLookups
from support.ports import free_port


def test_a_change_is_applied_when_asked(rig, caplog):
    async def test():
        rig.write("127.0.0.1:1, 127.0.0.1:2")
        outcome = await rig.keeper.reload("SIGHUP")
        assert outcome.result == "applied"
        assert outcome.generation == 2
        assert outcome.changes == ("service a: endpoint 127.0.0.1:2 added",)
        assert len(rig.data_plane.config.services["a"].endpoints) == 2
        assert rig.keeper.counts.applied == 1
        assert rig.keeper.last == outcome

    scenario(rig, test)
    assert "SIGHUP: reading the configuration" in caplog.text
    assert "endpoint 127.0.0.1:2 added" in caplog.text


def test_a_change_is_applied_without_being_asked(rig):
    async def test():
        rig.write("127.0.0.1:3")
        while rig.keeper.counts.applied == 0:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert rig.data_plane.config.services["a"].endpoints[0].address.port == 3

    scenario(rig, test)


def test_no_change(rig):
    async def test():
        outcome = await rig.keeper.reload("SIGHUP")
        assert outcome.result == "unchanged"
        assert outcome.generation == 1
        assert rig.keeper.counts.unchanged == 1
        assert rig.data_plane.calls.count("apply") == 1

    scenario(rig, test)


def test_an_invalid_file_is_refused_whole(rig, caplog):
    async def test():
        before = rig.keeper.config
        rig.write("127.0.0.1:2", more="wrokers: 3")
        outcome = await rig.keeper.reload("SIGHUP")
        assert outcome.result == "refused"
        assert outcome.problems[0].line == 2
        assert rig.keeper.config is before
        assert rig.data_plane.calls.count("apply") == 1
        assert (rig.keeper.counts.refused, rig.keeper.counts.last_successful) == (1, False)
        rig.write()
        outcome = await rig.keeper.reload("SIGHUP")
        assert rig.keeper.counts.last_successful
        assert outcome.result == "applied"

    scenario(rig, test)
    assert caplog.text.count("wrokers") == caplog.text.count("the last good one stays in force") * 2 == 2


def test_what_the_data_plane_refuses_is_refused(rig, caplog):
    async def test():
        rig.data_plane.refuse = "listener: 1.2.3.4:80 is in use"
        rig.write("127.0.0.1:2")
        outcome = await rig.keeper.reload("SIGHUP")
        assert (outcome.result, outcome.error) == ("refused", rig.data_plane.refuse)
        assert rig.keeper.config.services["a"].endpoints[0].address.port == 1
        rig.data_plane.refuse = None
        assert (
            await rig.keeper.reload("SIGHUP")
        ).result == "applied"  # tried again, though nothing was edited

    scenario(rig, test)
    assert "1.2.3.4:80 is in use" in caplog.text


def test_an_unexpected_failure_does_not_end_the_process(rig, monkeypatch, caplog):
    async def test():
        monkeypatch.setattr(rig.data_plane, "apply", lambda *_: 1 / 0)
        rig.write("127.0.0.1:2")
        outcome = await rig.keeper.reload("SIGHUP")
        assert outcome.result == "refused"
        assert "ZeroDivisionError" in outcome.error

    scenario(rig, test)
    assert "Traceback" in caplog.text


def test_a_change_that_needs_a_restart_says_so_once(rig, caplog):
    async def test():
        rig.write(more="workers: 7\nlimits: {connections: 99}")
        outcome = await rig.keeper.reload("SIGHUP")
        assert [warning.split()[0] for warning in outcome.warnings] == ["`workers`", "`limits.connections`"]
        rig.write("127.0.0.1:2", more="workers: 7\nlimits: {connections: 99}")
        assert len((await rig.keeper.reload("SIGHUP")).warnings) == 2

    scenario(rig, test)
    assert caplog.text.count("takes effect at the next restart") == 2


def test_a_warning_is_logged_once_wherever_it_moves(rig, caplog):
    warned = "limits: {queue: 1}"
    text = rig.file.read_text().replace("127.0.0.1:1]}", f"127.0.0.1:1], {warned}}}")

    async def test():
        rig.file.write_text("# a line more\n" + text.replace("127.0.0.1:1]", "127.0.0.1:4]"))
        assert (await rig.keeper.reload("SIGHUP")).result == "applied"

    rig.file.write_text(text)
    scenario(rig, test)
    assert caplog.text.count("`queue` has no effect") == 1


def test_access_log_changes_follow_the_configuration(rig, tmp_path):
    async def test():
        log = tmp_path / "access.log"
        rig.write(more=f"access_log: {{to: {log}, format: combined}}")
        assert (await rig.keeper.reload("SIGHUP")).result == "applied"
        assert rig.data_plane.access_log[1] == "combined"
        assert log.exists()
        rig.write(more=f"access_log: {{to: {tmp_path}/none/x.log}}")
        outcome = await rig.keeper.reload("SIGHUP")
        assert outcome.result == "refused"
        assert "cannot write" in outcome.error
        log.unlink()
        rig.keeper.reopen_logs()
        assert log.exists()

    scenario(rig, test)


def test_after_close_nothing_changes(rig):
    async def test():
        await rig.keeper.close("fastmesh is draining")
        rig.write("127.0.0.1:2")
        outcome = await rig.keeper.reload("SIGHUP")
        assert (outcome.result, outcome.error) == ("refused", "fastmesh is draining")
        assert rig.data_plane.calls.count("apply") == 1

    scenario(rig, test)


def test_after_close_a_file_that_is_wrong_is_no_failure(rig, caplog):
    async def test():
        await rig.keeper.close("fastmesh is draining")
        rig.file.write_text("listeners: [")
        with trio.move_on_after(5):
            while rig.keeper._watcher.last.result != "refused":  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert rig.keeper._watcher.last.result == "refused"
        assert rig.keeper.last.result != "refused"
        assert rig.keeper.counts.refused == 0

    scenario(rig, test)


def test_inbound_ends_whatever_the_configuration_says(rig):
    """And outbound goes on with names that are still followed, while nothing else changes any more."""
    lookups = FakeLookups({"orders.test": Hosts(("127.0.0.1",), 30.0)})
    rig.keeper.resolver = Resolver(lookups)
    orders = f"  outbound: {{orders: {{to: 'orders.test:80', listen: '127.0.0.1:{free_port()}'}}}}\n"
    rig.write(more=f"sidecar:\n{orders}")

    async def now(address):
        lookups.table["orders.test"] = Hosts((address,), 30.0)
        await rig.keeper.resolver.learn(rig.keeper.config, again=True)
        assert await rig.keeper.apply_names()
        return [place.address.host for place in rig.data_plane.resolved["orders.test:80"]]

    async def test():
        await rig.keeper.close("draining", names=True)
        assert rig.data_plane.config.listeners["web"].drain is False
        await rig.keeper.end_inbound()
        listeners = rig.data_plane.config.listeners
        assert {name: one.drain for name, one in listeners.items()} == {"web": True, "outbound/orders": False}
        assert (await rig.keeper.reload("SIGHUP")).result == "refused"
        assert await now("127.0.0.2") == ["127.0.0.2"]
        assert rig.data_plane.config.listeners["web"].drain
        await rig.keeper.close("draining")
        assert await now("127.0.0.3") == ["127.0.0.2"]

    scenario(rig, test)


class Checked:
    """Checks that find what a test says, and what was asked for in which order."""

    def __init__(self, rig, verdicts):
        self.rig = rig
        self.verdicts = verdicts
        self.log = []

    async def prepare(self, config, resolved, most):
        self.log.append(
            ("prepare", len(config.services["a"].endpoints), self.rig.data_plane.calls.count("apply"))
        )
        return self.verdicts

    def follow(self, config, resolved):
        self.log.append(
            ("follow", len(config.services["a"].endpoints), self.rig.data_plane.calls.count("apply"))
        )


def test_endpoints_are_checked_before_a_change_is_in_force(rig):
    verdicts = {("a", "127.0.0.1:1"): False}
    checked = rig.keeper.checker = Checked(rig, verdicts)

    async def test():
        assert checked.log == [("prepare", 1, 0), ("follow", 1, 1)]
        assert rig.data_plane.verdicts == verdicts
        rig.write("127.0.0.1:1, 127.0.0.1:2")
        assert (await rig.keeper.reload("SIGHUP")).result == "applied"
        assert checked.log[2:] == [("prepare", 2, 1), ("follow", 2, 2)]

    scenario(rig, test)


def test_what_is_refused_is_not_followed(rig):
    checked = rig.keeper.checker = Checked(rig, {})

    async def test():
        rig.data_plane.refuse = "listener: 1.2.3.4:80 is in use"
        rig.write("127.0.0.1:2, 127.0.0.1:3")
        assert (await rig.keeper.reload("SIGHUP")).result == "refused"
        assert checked.log[2:] == [("prepare", 2, 1)]

    scenario(rig, test)


def test_new_addresses_of_a_name_are_checked_too(rig):
    lookups = FakeLookups({"origin.test": Hosts(("127.0.0.1",), 30.0)})
    rig.keeper.resolver = Resolver(lookups)
    port = free_port()
    text = rig.file.read_text().replace("127.0.0.1:1]}", f"origin.test:{port}], health: {{timeout: 200ms}}}}")
    rig.file.write_text(text)

    async def test():
        assert rig.data_plane.verdicts == {("a", f"127.0.0.1:{port}"): False}
        lookups.table["origin.test"] = Hosts(("127.0.0.2",), 30.0)
        await rig.keeper.reload("SIGHUP")
        assert rig.data_plane.verdicts == {("a", f"127.0.0.2:{port}"): False}
        assert set(rig.keeper.checker.view()["a"].endpoints) == {f"127.0.0.2:{port}"}

    scenario(rig, test)


def test_the_first_load_raises_everything(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("listeners: 1\nservices: 2\n")
    with pytest.raises(ConfigError) as raised:
        trio.run(ConfigKeeper(str(file)).load)
    assert len(raised.value.problems) >= 2


def test_a_log_that_cannot_be_opened_stops_the_start(rig, tmp_path):
    rig.write(more=f"access_log: {{to: {tmp_path}/none/x.log}}")

    async def main():
        await rig.keeper.load()
        await rig.keeper.apply_first(rig.data_plane)

    with pytest.raises(StartError, match="access_log"):
        trio.run(main)


LISTENER, SERVICE = DrainTarget("listener", "web"), DrainTarget("service", "a")
ENDPOINT = DrainTarget("endpoint", "a", "127.0.0.1:1")


def drained(rig):
    """What drains for the data plane."""
    config = rig.data_plane.config
    service = config.services["a"]
    return (config.listeners["web"].drain, service.drain, [one.drain for one in service.endpoints])


def test_what_the_api_asked_for_outlasts_a_reload(rig, caplog):
    async def test():
        outcome = await rig.keeper.set_drain(ENDPOINT, True)
        assert (outcome.changed, outcome.message) == (True, "endpoint 127.0.0.1:1 of service a drains")
        assert drained(rig) == (False, False, [True])
        assert not rig.keeper.config.services["a"].endpoints[0].drain, "the file does not say it"
        rig.write("127.0.0.1:1, 127.0.0.1:2")
        changed = await rig.keeper.reload("test")
        assert changed.changes == ("service a: endpoint 127.0.0.1:2 added",)
        assert drained(rig) == (False, False, [True, False])
        outcome = await rig.keeper.set_drain(ENDPOINT, False)
        assert (outcome.changed, outcome.message) == (
            True,
            "endpoint 127.0.0.1:1 of service a drains no more",
        )
        assert drained(rig) == (False, False, [False, False])

    scenario(rig, test)
    assert "asked for by the admin API: endpoint 127.0.0.1:1 of service a drains\n" in caplog.text


def test_with_its_name_the_drain_is_gone(rig, caplog):
    async def test():
        await rig.keeper.set_drain(ENDPOINT, True)
        rig.write("127.0.0.1:2")
        await rig.keeper.reload("test")
        rig.write("127.0.0.1:1")
        await rig.keeper.reload("test")
        assert drained(rig) == (False, False, [False])

    scenario(rig, test)
    assert "endpoint 127.0.0.1:1 of service a is gone, and with it the drain" in caplog.text


def test_what_is_so_already_changes_nothing(rig):
    async def test():
        applied = rig.data_plane.calls.count("apply")
        outcome = await rig.keeper.set_drain(SERVICE, False)
        assert (outcome.changed, outcome.message) == (False, "service a does not drain")
        assert rig.data_plane.calls.count("apply") == applied
        await rig.keeper.set_drain(SERVICE, True)
        outcome = await rig.keeper.set_drain(SERVICE, True)
        assert (outcome.changed, outcome.message) == (False, "service a drains already")
        assert rig.data_plane.calls.count("apply") == applied + 1

    scenario(rig, test)


def test_the_file_has_the_last_word(rig):
    async def test():
        rig.write("{address: '127.0.0.1:1', drain: true}")
        await rig.keeper.reload("test")
        assert drained(rig) == (False, False, [True])
        assert not (await rig.keeper.set_drain(ENDPOINT, True)).changed
        with pytest.raises(DrainRefused) as refused:
            await rig.keeper.set_drain(ENDPOINT, False)
        assert str(refused.value).endswith("drains because the file says `drain: true`")
        assert refused.value.hint.startswith("remove that from the file")
        rig.write("127.0.0.1:1")
        await rig.keeper.reload("test")
        assert drained(rig) == (False, False, [False]), "the API never asked for it"

    scenario(rig, test)


def test_a_listener_that_cannot_be_bound_again_drains_on(rig):
    async def test():
        await rig.keeper.set_drain(LISTENER, True)
        with socket.create_server(("127.0.0.1", rig.port)):
            with pytest.raises(DrainRefused) as refused:
                await rig.keeper.set_drain(LISTENER, False)
            assert f"127.0.0.1:{rig.port} is in use" in str(refused.value)
            assert refused.value.hint == "listener web drains on"
            assert drained(rig) == (True, False, [False])
            assert rig.keeper.drains.asked(LISTENER)
        assert (await rig.keeper.set_drain(LISTENER, False)).changed
        assert drained(rig) == (False, False, [False])

    scenario(rig, test)


def test_a_process_that_ends_takes_no_more_wishes(rig):
    async def test():
        await rig.keeper.close("fastmesh is draining")
        with pytest.raises(DrainRefused, match="fastmesh is draining"):
            await rig.keeper.set_drain(SERVICE, True)
        assert not rig.keeper.drains.asked(SERVICE)

    scenario(rig, test)


def test_nothing_changes_while_another_process_takes_over(rig):
    async def test():
        async with rig.keeper.unchanging():
            rig.write("127.0.0.1:1, 127.0.0.1:2")
            with trio.move_on_after(0.1) as waited:
                await rig.keeper.reload("SIGHUP")
            assert waited.cancelled_caught
            assert len(rig.data_plane.config.services["a"].endpoints) == 1
        outcome = await rig.keeper.reload("SIGHUP")
        assert outcome.result in ("applied", "unchanged")
        assert len(rig.data_plane.config.services["a"].endpoints) == 2

    scenario(rig, test)


def test_nothing_changes_after_another_process_took_over(rig):
    async def test():
        async with rig.keeper.unchanging():
            rig.keeper.refuse_changes("it has handed over")
        rig.write("127.0.0.1:1, 127.0.0.1:2")
        outcome = await rig.keeper.reload("SIGHUP")
        assert (outcome.result, outcome.error) == ("refused", "it has handed over")

    scenario(rig, test)
