"""`python -m bench.endurance`: ten million requests with configuration changes all the while, then a drain.

Two wrk runs, one over 64 and one over 1,000 connections, go on side by side in legs of some seconds until the
number of requests is reached; the configuration changes all the while. Between two legs no connection is
open, and memory is read. Held at the end: no failed request, memory at most 1 MiB above that after a fifth of
the requests, no exchange left over, and a drain that ends with exit code 0 and an empty leak ledger.

`--tunnel` is the other run: changes with one relayed TCP connection open, whose bytes come through all the
while and whose memory stays flat (measured from the first tenth of the changes on).
"""

from __future__ import annotations

import argparse
import signal
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.changes import Changer
from bench.contenders import CONTENDERS, TCP, Running
from bench.harness.admin import Admin
from bench.harness.load import Load, LoadResult
from bench.harness.meters import memory
from bench.harness.process import wait_until
from bench.measure import Bench
from bench.session import exit_code_of, open_session
from bench.suite import at_least_one

MEMORY_GROWTH = 1024 * 1024
CONNECTIONS = (64, 1000)
# How long connections that wrk has left may take to be noticed and freed before memory is read.
_SETTLE_SECONDS = 20.0
# So many readings of memory make one figure.
_READINGS = 5
# Between two changes, so that the load and not the control plane has most of the proxy's CPU.
_PAUSE_SECONDS = 0.05


@dataclass
class Account:
    """What happened so far. Memory in bytes, resident."""

    requests: int = 0
    failed: int = 0
    changes: int = 0
    errors: list[str] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)  # (requests or changes so far, bytes)

    def growth(self, share: float) -> int:
        """Bytes at the end above those after `share` of the run: medians of the last and first readings.

        A single one would say little: what a thread that reads a configuration has freed comes and goes by
        some MiB.
        """
        last_count = self.memory[-1][0]
        sizes = [size for count, size in self.memory if count >= share * last_count]
        return int(statistics.median(sizes[-_READINGS:]) - statistics.median(sizes[:_READINGS]))


def resident(running: Running) -> int:
    return memory(running.tree()).resident


def exchanges_left(running: Running) -> int:
    """Exchanges and connections that workers still hold once no client is left."""
    no_client_left(running)
    workers = Admin(running.job.admin_port).json("/api/v1/workers")["workers"]
    return sum(int(worker["exchanges"]) for worker in workers)


def no_client_left(running: Running) -> None:
    """Waits until the proxy has noticed that wrk is gone."""
    admin = Admin(running.job.admin_port)

    def quiet() -> bool:
        metrics = admin.metrics()
        return not any(
            value for name, value in metrics.items() if name.startswith("fastmesh_connections_active")
        )

    wait_until(quiet, running.child, "see the end of all client connections", _SETTLE_SECONDS)


def run_leg(bench: Bench, running: Running, changer: Changer, seconds: int) -> list[LoadResult]:
    """One leg of both loads, with changes until it is over."""
    url = f"http://127.0.0.1:{running.job.http_port}/"
    loads = [
        Load(
            url,
            log=bench.folder / f"wrk-{connections}.log",
            cpu=bench.pinning.load,
            connections=connections,
            seconds=seconds,
        )
        for connections in CONNECTIONS
    ]
    try:
        for load in loads:
            load.wait_started()
        while all(load.running() for load in loads):
            changer.change()
            time.sleep(_PAUSE_SECONDS)
        return [load.result(running.check_alive) for load in loads]
    finally:
        for load in loads:
            load.stop()


def endure(bench: Bench, running: Running, requests: int, leg_seconds: int) -> Account:
    account = Account()
    changer = Changer(running, bench.origin.ports)
    begin = time.monotonic()
    while account.requests < requests:
        for result in run_leg(bench, running, changer, leg_seconds):
            account.requests += result.requests
            account.failed += result.failed
            if result.failed:
                account.errors.append(result.error_text())
        account.changes = changer.applied
        no_client_left(running)
        account.memory.append((account.requests, resident(running)))
        pace = account.requests / (time.monotonic() - begin)
        left = max(0.0, requests - account.requests) / pace
        print(
            f"{account.requests:,} requests, {account.failed} failed, {account.changes} changes, "
            f"{account.memory[-1][1] / 2**20:.2f} MiB, about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
    return account


def hold_tunnel(bench: Bench, running: Running, changes: int) -> Account:
    """A relayed TCP connection stays open, and answers, over all the changes."""
    account = Account()
    tunnel = socket.create_connection(("127.0.0.1", running.port(TCP)), timeout=10)
    changer = Changer(running, bench.origin.ports)
    try:
        for number in range(1, changes + 1):
            changer.change()
            account.changes = number
            if number % max(1, changes // 50) == 0:
                account.requests += 1
                account.failed += not _answers(tunnel)
                account.memory.append((number, resident(running)))
    finally:
        tunnel.close()
    return account


def _answers(tunnel: socket.socket) -> bool:
    """One keep-alive request through the tunnel, its answer read whole."""
    tunnel.sendall(b"GET / HTTP/1.1\r\nHost: tunnel\r\n\r\n")
    data = b""
    while not (b"\r\n\r\n" in data and len(data.partition(b"\r\n\r\n")[2]) >= 128):
        some = tunnel.recv(65536)
        if not some:
            return False
        data += some
    return data.startswith(b"HTTP/1.1 200 ")


def drain(running: Running) -> list[str]:
    """Asks for the end; what was wrong with it. fastmesh logs an error if its leak ledger is not empty."""
    running.child.signal(signal.SIGTERM)
    code = running.child.wait(30)
    problems = (
        [] if code == 0 else ["the drain did not end" if code is None else f"the drain ended with {code}"]
    )
    return problems + [line for line in running.child.log.read_text().splitlines() if "leaked" in line]


def judge(account: Account, share: float, exchanges: int, drained: Sequence[str]) -> list[str]:
    """What did not hold; empty when all did."""
    problems = list(drained)
    if account.failed:
        problems.append(f"{account.failed} failed requests: {'; '.join(account.errors)}")
    if not account.changes:
        problems.append("no configuration change was applied")
    growth = account.growth(share)
    if growth > MEMORY_GROWTH:
        problems.append(f"memory grew by {growth / 2**20:.2f} MiB after the first {share:.0%}")
    if exchanges:
        problems.append(f"{exchanges} exchanges are left though no client is")
    return problems


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.endurance", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--requests", type=at_least_one, default=10_000_000)
    add("--leg", type=int, default=8, help="seconds between two readings of memory")
    add("--tunnel", action="store_true", help="the run with one tunnel open, in place of the requests")
    add("--changes", type=int, default=1000, help="with --tunnel: how many")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    with open_session({"fastmesh": CONTENDERS["fastmesh"]}) as session:
        running = session.bench.start("fastmesh")
        try:
            if options.tunnel:
                account, share = hold_tunnel(session.bench, running, options.changes), 0.1
            else:
                account, share = endure(session.bench, running, options.requests, options.leg), 0.2
            left = exchanges_left(running)
            drained = drain(running)
        finally:
            running.stop()
    problems = judge(account, share, left, drained)
    print(f"{account.requests:,} requests, {account.failed} failed; {account.changes} changes applied")
    memory_now, growth = account.memory[-1][1] / 2**20, account.growth(share) / 2**20
    print(f"memory {memory_now:.2f} MiB, {growth:+.2f} MiB since {share:.0%} of the run")
    print("held" if not problems else "NOT HELD:\n" + "\n".join(f"  {problem}" for problem in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
