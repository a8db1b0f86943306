"""A contender that serves, and the origin behind it."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.contenders.contender import HTTP, RELOADABLE, TCP, Contender, Job
from bench.harness.place import BenchError, free_ports
from bench.harness.process import Child, wait_for_port, wait_until

_START_SECONDS = 30.0


class Running:
    """A contender that serves. `direct` has no process: its tree is empty, its ports are the origin's."""

    def __init__(self, contender: Contender, job: Job) -> None:
        """Starts it and waits until the origin's answer to `/`, 200, comes back through it."""
        command = contender.command(job)
        self.contender = contender
        self.job = job
        self.reloads = 0
        self._child: Child | None = None
        self._helpers: list[Child] = []
        if not command.argv:
            return
        self._child = Child(
            contender.name,
            command.argv,
            log=job.folder / "output.log",
            cpu=job.cpu,
            env=command.env,
            cwd=command.cwd,
        )
        try:
            for port in self._ports():
                wait_for_port(self._child, port, _START_SECONDS)
            wait_until(self._forwards, self._child, "pass a request on to the origin", _START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _ports(self) -> list[int]:
        ports = [self.job.http_port]
        if TCP in self.contender.listeners:
            ports.append(self.job.tcp_port)
        if self.contender.has_admin:
            ports.append(self.job.admin_port)
        return ports

    def _forwards(self) -> bool:
        """Whether `/` is answered with 200. One that listens may still answer 404 or 503 itself."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(HTTP), timeout=5)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def child(self) -> Child:
        """Its process; BenchError for `direct`, which has none."""
        if self._child is None:
            raise BenchError(f"{self.contender.name} has no process")
        return self._child

    def check_alive(self) -> None:
        if self._child is not None:
            self._child.check_alive()

    def tree(self) -> list[int]:
        """Pids of its processes, for clocks and memory; empty for `direct`."""
        return [] if self._child is None else self._child.tree()

    def port(self, listener: str) -> int:
        if self._child is None:
            return self.job.origin_port
        return self.job.http_port if listener == HTTP else self.job.tcp_port

    def reload(
        self, *, origin_ports: Sequence[int], policy: str | None = None, step: int | None = None
    ) -> None:
        """Other endpoints (and another policy), in the proxy's own way, while it serves.

        Returns when it has been taken up; BenchError if it was refused or changes nothing. `step` is the
        change's number; it counts up by itself.
        """
        contender, before = self.contender, self.job
        if contender.reload is None or before.variant != RELOADABLE:
            raise BenchError(contender.unable(variant=RELOADABLE) or f"start {contender.name} as reloadable")
        step = self.reloads + 1 if step is None else step
        job = replace(before, origin_ports=tuple(origin_ports), policy=policy or before.policy)
        reason = contender.unable(policy=job.policy)
        if reason or job == before:
            raise BenchError(f"change {step} of {contender.name}: {reason or 'it changes nothing'}")
        self.check_alive()
        try:
            contender.reload(self, job, step)
        except BenchError as error:
            raise BenchError(f"change {step} of {contender.name} was not applied: {error}") from error
        self.job = job
        self.reloads += 1

    def pause(self) -> None:
        """Stops its processes where they are: they take nothing from who is measured; `resume` ends it."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self.tree():
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # ended since the tree was read
                continue

    def drain(self) -> None:
        """Begins the proxy's graceful stop and returns; `child.wait` tells when it has ended."""
        if self.contender.drain is None:
            raise BenchError(f"{self.contender.name} has no graceful stop")
        self.check_alive()
        self.contender.drain(self)

    def keep(self, helper: Child) -> None:
        """A process that helps and is none of the proxy's tree: it is ended with it."""
        self._helpers.append(helper)

    def trim_log(self) -> None:
        """Empties the access log, so that a long run does not fill the disk. Writers append."""
        if self.job.access_log.exists():
            os.truncate(self.job.access_log, 0)

    def stop(self) -> None:
        for helper in self._helpers:
            helper.stop()
        if self._child is not None:
            self.resume()  # a paused one would not hear of it
            self._child.stop(grace=2.0)


def start(
    contender: Contender,
    variant: str,
    *,
    origin_ports: Sequence[int],
    cpu: int,
    folder: Path,
    policy: str = "round_robin",
) -> Running:
    """Starts it on free ports, its files in a new folder of `folder`; returns when it passes requests on."""
    reason = contender.unable(variant=variant, policy=policy)
    if reason:
        raise BenchError(reason)
    own = folder / f"{contender.name}-{variant}-{len(list(folder.iterdir()))}"
    own.mkdir()
    http_port, tcp_port, admin_port = free_ports(3)
    job = Job(own, tuple(origin_ports), variant, http_port, tcp_port, admin_port, cpu, policy)
    return Running(contender, job)
