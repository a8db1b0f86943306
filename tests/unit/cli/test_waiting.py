"""What `fastmesh wait` asks the proxy, and what it says. What follows: tests/integration/test_wait.py."""

import json
import os
import signal

import pytest

from fastmesh.cli import admin_client, waiting
from fastmesh.cli.admin_client import AdminUnreachable, Answer

OURS = os.geteuid()


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def proxy(monkeypatch):
    """Answers in their order, by path; the last one stays."""
    answers = {"/readyz": [Answer(200, "ready\n")], "/api/v1/process": []}

    def request(method, path, admin, *, token=None, seconds=5.0):
        assert (method, admin) == ("GET", "127.0.0.1:9400")
        answer = answers[path].pop(0) if len(answers[path]) > 1 else answers[path][0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(admin_client, "request", request)
    return answers


@pytest.fixture
def became(monkeypatch):
    called = []

    def become(command):
        called.append(command)
        return 77

    monkeypatch.setattr(waiting, "_become", become)
    return called


def wait(*command, seconds=5.0):
    return waiting.wait("127.0.0.1:9400", seconds, list(command))


def process(**facts):
    return [Answer(200, json.dumps(facts))]


def test_it_waits_until_the_proxy_is_there_and_ready(proxy, became):
    proxy["/readyz"] = [
        AdminUnreachable("nobody"),
        Answer(503, "starting\n"),
        Answer(503, "no answer yet for the name a\n"),
        Answer(200, "ready\n"),
    ]
    proxy["/api/v1/process"] = process(transparent=False, uid=OURS)
    assert wait("app", "-x") == 77
    assert became == [["app", "-x"]]
    assert len(proxy["/readyz"]) == 1


def test_the_last_word_of_a_proxy_that_is_not_ready(proxy, became, capsys):
    proxy["/readyz"] = [AdminUnreachable("nobody"), Answer(503, "no answer yet for a\nno check of b\n")]
    assert wait("app", seconds=0.1) == waiting.NOT_READY == 124
    assert became == []
    assert capsys.readouterr().err == (
        "fastmesh wait: not ready within 0.1 s: 127.0.0.1:9400 says 503: no answer yet for a; no check of b\n"
    )


def test_an_application_that_would_go_past_the_proxy_is_refused(proxy, became, capsys):
    proxy["/api/v1/process"] = process(transparent=True, uid=OURS)
    assert wait("app") == waiting.REFUSED == 125
    assert became == []
    message = capsys.readouterr().err
    assert f"(uid {OURS}) are exempt" in message
    assert "as another user" in message


@pytest.mark.parametrize(
    "facts", [{"transparent": True, "uid": OURS + 1}, {"transparent": False, "uid": OURS}]
)
def test_any_other_application_is_started(proxy, became, facts):
    proxy["/api/v1/process"] = process(**facts)
    assert wait("app") == 77


@pytest.mark.parametrize(
    "answer",
    [AdminUnreachable("it has gone"), Answer(200, "no JSON"), Answer(200, "[]")],
    ids=["nobody", "no JSON", "no mapping"],
)
def test_who_is_ready_and_says_nothing_of_itself_is_not_trusted(proxy, became, capsys, answer):
    proxy["/api/v1/process"] = [answer]
    assert wait("app") == 125
    assert became == []
    assert "does not say what it is" in capsys.readouterr().err


def test_without_an_application_nobody_is_asked_for_more(proxy):
    assert wait() == 0
