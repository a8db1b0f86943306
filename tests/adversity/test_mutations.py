"""The corpus of mutations through a live proxy: what must be refused is, and what is emitted is read alike
by others."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from adversity.mutations import Mutation, chunk_mutations, coding_bytes, coding_mutations, length_mutations

from support.client import ConnectionEnded, Response
from support.differential import read_alike
from support.rig import Rig, unique
from support.wire import get

FAMILIES = {
    "codings": coding_mutations,
    "coding-bytes": coding_bytes,
    "lengths": length_mutations,
    "chunks": chunk_mutations,
}
_SHOWN = 25


def _send(rig: Rig, mutation: Mutation, path: str, split: int | None = None) -> list[Response]:
    """All responses to the mutation, sent for a path of its own, and to a GET behind it; the client has then
    no more to say. With `split` the proxy has read so many bytes before it is sent the rest."""
    responses = []
    raw = mutation.raw.replace(b"/mutation", path.encode(), 1) + get(path + "/behind")
    with rig.client(unix=split is not None) as client:
        if split is None:
            client.send(raw)
        else:
            client.send_pieces([raw[:split]])
            client.send(raw[split:])
        client.shutdown_write()
        try:
            while True:
                method = "HEAD" if mutation.raw.startswith(b"HEAD ") and not responses else "GET"
                responses.append(client.read_response(method))
        except ConnectionEnded as end:
            if end.received:
                raise AssertionError(f"bytes behind the responses: {end.received!r}") from None
    return responses


def _settle(rig: Rig) -> None:
    """Wait until the origin has seen the end of requests that were given up, so that the next mark is a
    clean one."""
    rig.sentinels()
    links = list(rig.origin.connections)
    rig.origin.wait(
        lambda: all(link.ended or all(request.complete for request in link.requests) for link in links),
        "the end of connections with an incomplete request",
    )


def _judge(rig: Rig, mutation: Mutation) -> None:
    path = unique("/mutation")
    mark = rig.origin.mark()
    responses = _send(rig, mutation, path)
    if mutation.expected == "either":
        _settle(rig)
    seen = rig.origin.since(mark)
    assert not seen.malformed, f"the origin could not read it: {seen.malformed}"
    for data in seen.data.values():
        read_alike(data)
    statuses = [response.status for response in responses]
    if mutation.expected == "refuse":
        assert statuses in ([400], [431], [501]), f"answers {statuses}"
        assert path.encode() not in seen.raw, f"reached the origin: {seen.raw!r}"
    elif mutation.expected == "forward":
        assert statuses[:1] == [200], f"answers {statuses}"
        assert [request.path for request in seen.requests][:1] == [path]
        closes = b"Connection: close" in mutation.raw
        assert statuses == ([200] if closes else [200, 200]), f"answers {statuses}"
        assert len(seen.requests) == len(statuses)
    else:
        complete = [request for request in seen.requests if request.complete and path in request.path]
        assert statuses.count(200) == len(complete), (
            f"answers {statuses}, complete at the origin {len(complete)}"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_mutations_are_refused_or_read_alike(rig: Rig, family: str) -> None:
    problems = []
    source: Callable[[], Iterator[Mutation]] = FAMILIES[family]
    count = 0
    for mutation in source():
        count += 1
        try:
            _judge(rig, mutation)
        except AssertionError as error:
            problems.append(f"{mutation.name} (to {mutation.expected}): {str(error)[:400]}")
    rig.sentinels()
    assert not problems, f"{len(problems)} of {count}:\n" + "\n".join(problems[:_SHOWN])


def _judge_split(rig: Rig, mutation: Mutation, split: int) -> None:
    """As whole, only that the start of a body may have reached the origin before its end was seen to be
    bad."""
    path = unique("/mutation")
    mark = rig.origin.mark()
    statuses = [response.status for response in _send(rig, mutation, path, split)]
    _settle(rig)
    seen = rig.origin.since(mark)
    assert not seen.malformed, f"the origin could not read it: {seen.malformed}"
    for data in seen.data.values():
        read_alike(data)
    complete = [request for request in seen.requests if request.complete and path in request.path]
    assert statuses.count(200) == len(complete), f"answers {statuses}, complete at the origin {len(complete)}"
    if mutation.expected == "refuse":
        assert statuses in ([400], [431], [501]), f"answers {statuses}"
    elif mutation.expected == "forward":
        assert statuses == ([200] if b"Connection: close" in mutation.raw else [200, 200]), (
            f"answers {statuses}"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_mutations_that_arrive_in_two_parts(rig: Rig, family: str) -> None:
    problems = []
    dice = random.Random(family)
    for mutation in FAMILIES[family]():
        split = dice.randrange(1, len(mutation.raw))
        try:
            _judge_split(rig, mutation, split)
        except AssertionError as error:
            problems.append(f"{mutation.name} split at {split} (to {mutation.expected}): {str(error)[:400]}")
    assert not problems, f"{len(problems)}:\n" + "\n".join(problems[:_SHOWN])
