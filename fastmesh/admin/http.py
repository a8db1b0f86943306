"""Requests and answers of the admin API as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks: ``unix``, or an IP address as text."""

    unix: bool
    host: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One request without its body, which no endpoint needs. Header names are lower case; a field that came
    twice is joined by ``, ``."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    peer: Peer


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = field(default=())


def json_response(value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """``value`` as indented JSON; msgspec Structs, dataclasses, tuples and bytes are fine."""
    body = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    return Response(status, body, JSON, headers)


def error_response(
    status: int, message: str, hint: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """``{"error": …, "message": …, "hint": …}``: what is wrong and what to do about it."""
    value = {"error": HTTPStatus(status).phrase, "message": message}
    if hint:
        value["hint"] = hint
    return json_response(value, status, headers)


def text_response(text: str, status: int = 200, content_type: str = TEXT) -> Response:
    return Response(status, text.encode("utf-8"), content_type)
