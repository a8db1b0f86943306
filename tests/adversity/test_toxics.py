"""Small versions of the cases of `make chaos` behind the toxic proxy, and what that proxy does."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.partition import partition
from chaos.programs import IdOrigin, IdTable, Toxic
from chaos.stage import POLICIES, Spoilt, Stage, spoilt
from chaos.syscalls import MIXES, play_mix
from chaos.toxics import EVERYTHING, FAULTS, PHASES, Phase, matrix, play_phase, posts
from support.client import BadResponse, Client, ConnectionEnded, Response
from support.ports import free_port

# Stalls last as long as their clients wait.
QUICK = [phase for phase in PHASES if "stall" not in phase.name]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}")
    return Stage(tmp_path, seed, say=print)


@pytest.mark.parametrize("phase", QUICK, ids=lambda phase: phase.name)
def test_toxic(stage: Stage, phase: Phase) -> None:
    played = play_phase(stage, phase, 1500)
    print(played.text())
    assert played.holds, played.text()


def test_a_case_sees_answers_of_other_requests(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def mix_up(plan: object, at: Spoilt) -> None:
        at.origins[0].tell("mix")

    monkeypatch.setattr("chaos.toxics._put", mix_up)
    played = play_phase(stage, Phase("mixed up", []), 300)
    assert any("answers of other requests" in text for text in played.broken), played.text()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_all_toxics(stage: Stage) -> None:
    played = play_phase(stage, EVERYTHING, 20_000)
    print(played.text())
    assert played.holds, played.text()


def test_posts_with_resets_at_every_byte(stage: Stage) -> None:
    (played,) = posts(stage, 3000)
    print(played.text())
    assert played.holds, played.text()


@pytest.mark.parametrize("fault", ["reset", "garbage"])
def test_a_fault_with_another_policy(stage: Stage, fault: str) -> None:
    stage.policies = [POLICIES[stage.seed % len(POLICIES)]]
    (played,) = matrix(stage, seconds=0.7, faults=[fault])
    assert played.holds, played.text()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("policy", POLICIES)
def test_each_fault_with_each_policy(stage: Stage, policy: str) -> None:
    stage.policies = [policy]
    (played,) = matrix(stage, seconds=1.5, faults=list(FAULTS))
    assert played.holds, played.text()


@pytest.mark.no_sanitizer
@pytest.mark.parametrize("what", ["short, again", "all"])
def test_system_calls_that_fail(stage: Stage, what: str) -> None:
    played = play_mix(stage, what, *MIXES[what], requests=2000)
    print(played.text())
    assert played.holds, played.text()


def test_a_case_without_faults_does_not_hold(stage: Stage) -> None:
    assert play_mix(stage, "none", "short=0", False, requests=200).broken == ["no call was struck"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")
def test_an_endpoint_that_packets_do_not_reach(stage: Stage) -> None:
    stage.settings = {"timeouts": {"response": "2s"}}
    (played,) = partition(stage, seconds=4.0, after=2.0)
    print(played.text())
    assert played.holds, played.text()


# ---------------------------------------------------------------- the proxy itself, and the counting


@contextmanager
def one_gate(stage: Stage, toxic: str) -> Iterator[Spoilt]:
    with spoilt(stage, stage.folder, 1, 100) as at:
        at.toxic.spoil(toxic)
        yield at


def ask(at: Spoilt, number: int = 2, method: str = "GET", size: int = 17) -> Response:
    """One request through the gate on a connection of its own."""
    body = b"" if method == "GET" else (f"id{number:014x}\n" * 10).encode()[:100]
    head = (
        f"{method} /id{number:014x} HTTP/1.1\r\nx-chaos-bytes: {size}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with Client(("127.0.0.1", at.ports[0]), timeout=2) as client:
        return client.request(head.encode() + body)


def answer_bytes(at: Spoilt) -> int:
    """Length of the origin's answer to `ask`."""
    response = ask(at)
    return len(response.raw_head) + len(response.body)


def test_a_gate_passes_on(stage: Stage) -> None:
    with one_gate(stage, "none") as at:
        response = ask(at, 7, "POST", 40)
        assert (response.status, response.get("x-chaos-id")) == (200, b"id00000000000007")
        assert response.body == (b"id00000000000007\n" * 3)[:40]
        assert at.received.counts()[7] == at.whole.counts()[7] == 1
        assert at.wrong_bodies() == 0


@pytest.mark.parametrize("way", ["reset", "cut"])
def test_an_answer_ends_at_each_byte(stage: Stage, way: str) -> None:
    """`0+N` goes through all offsets, each connection one further."""
    with one_gate(stage, "none") as at:
        length = answer_bytes(at)
        at.toxic.spoil(f"{way} response 0+{length - 1}")
        for expected in range(length):
            with Client(("127.0.0.1", at.ports[0]), timeout=2) as client:
                client.send(b"GET /id00000000000004 HTTP/1.1\r\n\r\n")
                assert len(client.read_to_end()) == expected
                assert client.ended == ("reset" if way == "reset" else "eof")


def test_a_request_ends_at_a_byte_but_was_received(stage: Stage) -> None:
    """The origin has only its beginning; that it was received is known all the same."""
    with one_gate(stage, "reset request 5") as at:
        with pytest.raises(ConnectionEnded):
            ask(at, 9, "POST")
        assert at.received.counts()[9] == 1
        assert at.whole.counts()[9] == 0


def test_a_stalled_answer_does_not_come(stage: Stage) -> None:
    with (
        one_gate(stage, "stall response 10") as at,
        Client(("127.0.0.1", at.ports[0]), timeout=0.3) as client,
    ):
        client.send(b"GET /id00000000000004 HTTP/1.1\r\n\r\n")
        assert len(client.read_exactly(10)) == 10
        with pytest.raises(AssertionError, match="nothing came"):
            client.read_some()


@pytest.mark.parametrize("place", ["inside 3", "instead 0"])
def test_garbage_is_no_answer(stage: Stage, place: str) -> None:
    with one_gate(stage, f"garbage {place} 50") as at, pytest.raises((BadResponse, ConnectionEnded)):
        ask(at)


def test_garbage_comes_with_the_end_of_an_answer(stage: Stage) -> None:
    with one_gate(stage, "garbage behind 1 50") as at, Client(("127.0.0.1", at.ports[0])) as client:
        client.send(b"GET /id00000000000004 HTTP/1.1\r\n\r\n")
        assert client.read_response("GET").status == 200
        assert len(client.read_exactly(50)) == 50


def test_a_gate_refuses_and_takes_again(stage: Stage) -> None:
    with one_gate(stage, "refuse") as at:
        with pytest.raises(ConnectionRefusedError):
            ask(at)
        at.toxic.spoil("none")
        assert ask(at).status == 200


def test_accepted_and_closed(stage: Stage) -> None:
    with one_gate(stage, "accept-close") as at, pytest.raises(ConnectionEnded):
        ask(at)


def test_slow_ways(stage: Stage) -> None:
    with one_gate(stage, "latency 60ms 0ms") as at:
        with socket.create_connection(("127.0.0.1", at.ports[0]), 2) as sock:
            sock.settimeout(0.1)
            sock.sendall(b"GET /id00000000000004 HTTP/1.1\r\n\r\n")
            with pytest.raises(TimeoutError):  # 60 ms there and 60 ms back
                sock.recv(1)
        at.toxic.spoil("bandwidth 100000")
        assert len(ask(at, size=10_000).body) == 10_000


def test_a_share_of_the_connections(stage: Stage) -> None:
    with one_gate(stage, "reset response 0 share 0.5") as at:
        ended = 0
        for _ in range(40):
            try:
                ask(at)
            except ConnectionEnded:
                ended += 1
        assert at.toxic.counts(at.ports[0])["applied"] == ended
        assert 5 < ended < 35


def test_a_post_that_is_sent_twice_is_seen(stage: Stage) -> None:
    with one_gate(stage, "none") as at:
        for number in (4, 4, 5, 7, 7):  # a GET may come twice
            ask(at, number, "POST" if number % 2 else "GET")
        assert at.received.posts_sent_twice() == [7]
        assert at.received.received() == (1, 2, 1)


def test_the_same_seed_spoils_the_same_connections(stage: Stage) -> None:
    def course(seed: int) -> list[bool]:
        folder = stage.fresh_folder()
        origin = IdOrigin(0, free_port(), folder)
        toxic = Toxic({free_port(): origin.port}, folder, seed=seed)
        try:
            toxic.spoil("accept-close share 0.5")
            outcomes = []
            for _ in range(30):
                with Client(("127.0.0.1", toxic.ports[0]), timeout=2) as client:
                    client.send(b"GET /id00000000000004 HTTP/1.1\r\n\r\n")
                    outcomes.append(bool(client.read_some()))
            return outcomes
        finally:
            toxic.stop()
            origin.stop()

    assert course(stage.seed) == course(stage.seed) != course(stage.seed + 1)


def test_an_unknown_toxic_is_refused(stage: Stage) -> None:
    with one_gate(stage, "none") as at:
        port = at.ports[0]
        for command in (
            "",
            "1 none",
            f"{port} poison",
            f"{port} reset sideways 1",
            f"{port} reset request x",
            f"{port} garbage inside 5",
            f"{port} latency 5 5",
            f"{port} reset request 9-3",
            f"{port} cut request 5 share 2",
        ):
            assert at.toxic.ask(command) not in ("ok", ""), command


def test_a_table_of_ids(tmp_path: Path) -> None:
    table = IdTable(tmp_path / "table", 6)
    table.path.write_bytes(bytes([0, 1, 3, 0, 1, 2]))
    assert table.received() == (2, 2, 2)
    assert table.posts_sent_twice() == [5]
