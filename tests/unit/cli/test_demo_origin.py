"""The demo's origin speaks HTTP/1.1 with keep-alive."""

import http.client
import os
import socket
import subprocess
import sys
import time

import pytest


@pytest.fixture
def origin():
    """Starts `python -m fastmesh.cli.demo_origin` and gives (process, port)."""
    processes = []

    def start(delay="0"):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            fd = listening.fileno()
            process = subprocess.Popen(
                [sys.executable, "-m", "fastmesh.cli.demo_origin", "origin-x", str(fd), delay],
                stdin=subprocess.PIPE,
                pass_fds=(fd,),
            )
            processes.append(process)
            return process, listening.getsockname()[1]

    yield start
    for process in processes:
        process.stdin.close()
        process.wait(5)


def test_it_says_who_it_is_and_what_it_got(origin):
    process, port = origin()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/a?b=c", headers={"x-test": "yes"})
    response = connection.getresponse()
    body = response.read().decode()
    assert response.status == 200
    assert response.headers["x-origin"] == "origin-x"
    assert body.startswith(f"hello from origin-x (pid {process.pid})\n")
    assert "GET /a?b=c\n" in body
    assert "x-test: yes\n" in body
    local = connection.sock.getsockname()
    # The same connection serves on: bodies of both framings, HEAD.
    connection.request("POST", "/", body=b"12345")
    assert "body of 5 bytes" in connection.getresponse().read().decode()
    connection.request("POST", "/", body=iter([b"123", b"4567"]), encode_chunked=True)
    assert "body of 7 bytes" in connection.getresponse().read().decode()
    connection.request("HEAD", "/")
    assert connection.getresponse().read() == b""
    connection.request("GET", "/")
    assert connection.getresponse().read()
    assert connection.sock.getsockname() == local
    connection.close()


def test_a_slow_one_takes_its_time(origin):
    _, port = origin("0.2")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.connect()
    connection.request("GET", "/")
    began = time.monotonic()
    assert connection.getresponse().status == 200
    assert time.monotonic() - began > 0.15
    connection.close()


def test_garbage_ends_only_its_own_connection(origin):
    _, port = origin()
    with socket.create_connection(("127.0.0.1", port), 10) as bad:
        bad.sendall(b"\x00\x01\r\n\r\n")
        assert bad.recv(100) == b""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()


def test_it_ends_with_its_parent_and_not_by_ctrl_c(origin):
    process, port = origin()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().read()
    os.kill(process.pid, 2)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    process.stdin.close()
    assert process.wait(5) == 0
