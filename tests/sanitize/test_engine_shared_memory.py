"""The engine's threads at once: snapshots published and adopted, slots retired and given away, statistics and
access records read, all under traffic. Meant for ThreadSanitizer (``tools/sanitize thread``), and
cheap enough for any build.
"""

import contextlib
import json
import os
import socket
import struct
import threading
import time

import pytest

engine = pytest.importorskip("fastmesh._native.core.engine")

ROUND_ROBIN, RANDOM, LEAST_REQUEST, RING_HASH = 0, 1, 2, 3
WORKERS = 2
CLIENTS = 4
SLOTS = 4  # the last one is never retired or unhealthy: there is always somewhere to go
CHANGES = 120
DEADLINE_S = 20
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET /%d HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: stress\r\n\r\n"


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


class Origin:
    """Answers every request on any number of connections, until it is closed."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.socket.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def serve(self, connection):
        waiting = b""
        with connection, contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                waiting += piece
                *whole, waiting = waiting.split(b"\r\n\r\n")
                connection.sendall(ANSWER * len(whole))

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for thread in self.threads:
            thread.join()


class Client:
    """Sends request after request, half of them on a connection of its own, and counts the good answers."""

    def __init__(self, port, number):
        self.port, self.number, self.good, self.bad = port, number, 0, []
        self.stop = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stop:
            with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as connection:
                for _ in range(20 if self.number % 2 else 1):
                    connection.sendall(REQUEST % self.good)
                    answer = b""
                    while not answer.endswith(b"\r\n\r\nok"):
                        piece = connection.recv(65536)
                        answer += piece
                        if not piece or not answer.startswith(ANSWER[:15]):
                            self.bad.append(answer)
                            return
                    self.good += 1


UNLIMITED = 0xFFFFFFFF


def address(port):
    return (
        struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
    )


def service(policy, endpoints):
    return {
        "index": 0,
        "name": b"user",
        "policy": policy,
        "endpoints": endpoints,
        "keys": [(1, b"")] if policy == RING_HASH else [],
        "ring_size": 1024,
        "table_size": 65537,
        "bounded_load": 0,
        "connect_ms": 5000,
        "response_ms": 15000,
        "idle_ms": 60000,
        "tunnel_idle_ms": 60000,
        "total_ms": 0,
        "pool_idle_ms": 55000,
        "keepalive": 16,
        "send_proxy": 0,
        "max_age_ms": 0,
        "draining": False,
        "retry_attempts": 2,
        "retry_budget": 200,
        "retry_on": 3,
        "retry_codes": [503],
        "retry_unsafe": False,
        "per_try_ms": 0,
        "eject_5xx": 5,
        "eject_gateway": 3,
        "eject_base_ms": 1000,
        "eject_max_ms": 30000,
        "eject_most": 500,
        "slow_start_ms": 0,
        "limit_requests": UNLIMITED,
        "limit_connections": UNLIMITED,
        "limit_endpoint_requests": UNLIMITED,
        "limit_endpoint_connections": UNLIMITED,
        "limit_queue": 0,
        "queue_ms": 1000,
    }


def listener(routes):
    return {
        "index": 0,
        "name": b"web",
        "protocol": 0,
        "accept_proxy": 0,
        "forwarded": 15,
        "upgrade_websocket": 0,
        "own_pair_index": 1,
        "header_ms": 10000,
        "client_idle_ms": 60000,
        "body_limit": 0,
        "min_rate": 240,
        "header_bytes": 32768,
        "header_count": 100,
        "target_bytes": 8192,
        "method_bytes": 32,
        "trusted": [],
        "intercepts": 0,
        "draining": 0,
        "within": 0xFFFFFFFF,
        "destinations": [],
        "routes": [(0, b"/", (), (), (), 0) for _ in range(routes)],
        "actions": [
            {
                "kind": 0,
                "status": 0,
                "response_ms": 0xFFFFFFFF,
                "prefix_len": 0,
                "rewrite": None,
                "location": b"",
                "body": b"",
                "targets": [(0, 0, 1)],
            }
        ],
    }


class Proxy:
    """An engine with its threads and sockets, as the control plane drives it."""

    def __init__(self, log):
        self.engine = engine.Engine(WORKERS, 1000)
        self.engine.set_access_log(log, "json")
        self.engine.enable_access_log(True)
        self.sockets = [socket.socket() for _ in range(WORKERS)]
        for number, one in enumerate(self.sockets):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("127.0.0.1", 0 if number == 0 else self.sockets[0].getsockname()[1]))
            one.listen(64)
            one.setblocking(False)
        self.port = self.sockets[0].getsockname()[1]
        self.workers = [threading.Thread(target=self.engine.run_worker, args=(i,)) for i in range(WORKERS)]
        self.writer = threading.Thread(target=self.engine.run_access_writer)
        for thread in (*self.workers, self.writer):
            thread.start()

    def open(self):
        for worker, one in enumerate(self.sockets):
            self.engine.open_socket(worker, one.fileno(), 0, 1, False)

    def close(self):
        for worker in range(WORKERS):
            self.engine.close_socket(worker, 1)
        wait_until(lambda: self.engine.commands_done() == self.engine.commands_posted)
        for one in self.sockets:
            one.close()
        self.stop()

    def stop(self):
        if not self.writer.is_alive():
            return
        self.engine.stop()
        for thread in self.workers:
            thread.join()
        self.engine.stop_access_writer()
        self.writer.join()


def read_everything(it):
    it.pair(0)
    it.pair(1)
    it.service(0)
    it.listener(0)
    it.errors()
    it.busy()
    it.access_lines_dropped()
    for worker in range(WORKERS):
        it.worker(worker)
    for slot in range(SLOTS):
        it.endpoint(slot)


def change(it, step, origins):
    """One change of the configuration: another policy, other weights and priorities; every third time a slot
    is retired and given to another origin before it comes back."""
    policy = (ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH)[step % 4]
    retired = step // 3 % 3 if step % 3 == 0 else None
    endpoints = [
        (slot, 1 + (step + slot) % 5, slot % (1 + step % 2)) for slot in range(SLOTS) if slot != retired
    ]
    generation = it.publish(
        [it.build_listener(listener(1 + step % 7))], [it.build_service(service(policy, endpoints))]
    )
    if retired is not None:
        wait_until(lambda: it.adopted() >= generation)
        it.slot_mark(retired, draining=True)
        it.close_gone()
        # A block that could still pick the slot has to be gone as well.
        wait_until(lambda: it.reap() >= 0 and it.slot_is_free(retired, generation))
        port = origins[(step + retired) % len(origins)].port
        it.slot_define(retired, 2 + step, 0, address(port), b"127.0.0.1:%d" % port)
    else:
        it.slot_mark(step % 3, unhealthy=step % 2 == 0)
    read_everything(it)
    it.reap()


@pytest.mark.timeout(300)
def test_changes_slots_and_statistics_under_traffic(tmp_path):
    path = tmp_path / "access.log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    origins = [Origin() for _ in range(SLOTS)]
    proxy = Proxy(log)
    it, clients = proxy.engine, []
    try:
        for slot in range(SLOTS):
            it.slot_define(slot, 1, 0, address(origins[slot].port), b"127.0.0.1:%d" % origins[slot].port)
        it.publish(
            [it.build_listener(listener(1))],
            [it.build_service(service(ROUND_ROBIN, [(slot, 1, 0) for slot in range(SLOTS)]))],
        )
        wait_until(lambda: it.adopted() == it.generation)
        proxy.open()
        clients = [Client(proxy.port, number) for number in range(CLIENTS)]
        wait_until(lambda: all(client.good for client in clients))
        for step in range(CHANGES):
            before = sum(client.good for client in clients)
            change(it, step, origins)
            wait_until(lambda: sum(client.good for client in clients) >= before + CLIENTS)  # noqa: B023
        for client in clients:
            client.stop = True
            client.thread.join()
        assert [client.bad for client in clients] == [[]] * CLIENTS
        wait_until(lambda: it.busy() == 0)
        proxy.close()
        good = sum(client.good for client in clients)
        codes, counts = it.pair(0)
        assert codes == {200: good}
        assert sum(struct.unpack(f"<{len(counts) // 8}Q", counts)) == good
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert len(lines) + it.access_lines_dropped() == good
        assert {line["status"] for line in lines} == {200}
        assert set(it.ledger().values()) == {0}
        it.close()
    finally:
        for client in clients:
            client.stop = True
            client.thread.join()
        proxy.stop()
        for origin in origins:
            origin.close()
        os.close(log)
