import errno
import os
import socket

import pytest

from fastmesh.sidecar import diag


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "0.0.0.0", "::"])
def test_real_sockets(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        inode = os.fstat(server.fileno()).st_ino
        with socket.create_connection(server.getsockname()[:2]):  # a connection is not a listening socket
            mine = [item for item in diag.listening() if item.port == port]
        assert mine == [diag.Listening(os.geteuid(), host, port, inode)]
    assert port not in {item.port for item in diag.listening()}


def test_more_than_one_answer_holds():
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(600)]
    try:
        ports = {server.getsockname()[1] for server in servers}
        assert ports <= {item.port for item in diag.listening()}
    finally:
        for server in servers:
            server.close()


def test_what_the_kernel_does_not_offer_is_an_error(monkeypatch):
    monkeypatch.setattr(diag, "_SOCK_DIAG_BY_FAMILY", 99)
    with pytest.raises(OSError) as raised:
        diag.listening()
    assert raised.value.errno == errno.EINVAL
