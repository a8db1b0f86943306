"""Answers as values."""

import json

from msgspec import Struct

from fastmesh.admin.http import error_response, json_response, text_response


class Example(Struct):
    name: str
    values: tuple[int, ...]


def test_json_is_indented_for_people():
    response = json_response(Example("é", (1,)), 202)
    assert response.status == 202
    assert response.body.decode() == '{\n  "name": "é",\n  "values": [\n    1\n  ]\n}\n'


def test_errors_say_what_to_do():
    response = error_response(404, "there is no /x", "GET / lists what there is")
    assert json.loads(response.body) == {
        "error": "Not Found",
        "message": "there is no /x",
        "hint": "GET / lists what there is",
    }
    assert "hint" not in json.loads(error_response(408, "late").body)


def test_text():
    assert text_response("ok\n").content_type == "text/plain; charset=utf-8"
