"""The texts with a grammar under `sidecar`."""

import socket

import pytest

from fastmesh.config.kinds import Wrong
from fastmesh.config.sidecar_keys import parse_app, parse_exit_with, parse_port
from fastmesh.model import Address, ExitWith


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8000", Address("inet", "127.0.0.1", 8000)),
        ("[::1]:8000", Address("inet6", "::1", 8000)),
        ("unix:/run/app.sock", Address("unix", path="/run/app.sock")),
    ],
)
def test_an_application(text: str, address: Address) -> None:
    assert parse_app(text) == address


@pytest.mark.parametrize("text", ["0", "65536", "app:8000", "", ":8000"])
def test_what_is_no_application(text: str) -> None:
    with pytest.raises(Wrong):
        parse_app(text)


def test_an_application_at_the_name_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Web-7f")
    assert parse_app("web-7F:8000") == Address("name", "web-7f", 8000)
    with pytest.raises(Wrong, match="`web` is not this machine's name"):
        parse_app("web:8000")


def test_what_to_end_with() -> None:
    assert parse_exit_with("pid:7") == ExitWith("pid", 7)
    assert parse_exit_with("port:8000") == ExitWith("port", 8000)


@pytest.mark.parametrize(
    "text", ["7", "pid:", "pid:0", "port:65536", "pid:4194305", "name:7", "pid:-1", "pid:7 "]
)
def test_what_cannot_be_ended_with(text: str) -> None:
    with pytest.raises(Wrong):
        parse_exit_with(text)


def test_a_port_as_a_key() -> None:
    assert parse_port("08000") == "8000"
    for text in ("0", "65536", "000080", "9" * 5000, "http", "٣"):
        with pytest.raises(Wrong):
            parse_port(text)
