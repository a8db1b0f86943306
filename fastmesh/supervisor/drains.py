"""Listeners, services and endpoints that drain while the process serves: what the API asked for, on top of
what the file says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from fastmesh.admin.control import DrainBy, DrainTarget
from fastmesh.model import Config, Endpoint, Listener, Service


class Drains:
    """What the API asked for. It lasts over changes of the file for as long as the name is in it, and is gone
    with the process, unless another one takes over."""

    def __init__(self) -> None:
        self._asked: dict[DrainTarget, None] = {}

    def put(self, target: DrainTarget, on: bool) -> None:
        if on:
            self._asked[target] = None
        else:
            self._asked.pop(target, None)

    def asked(self, target: DrainTarget) -> bool:
        return target in self._asked

    def all(self) -> tuple[DrainTarget, ...]:
        """What the API asked for, also if the file says it too."""
        return tuple(self._asked)

    def forget_gone(self, config: Config) -> tuple[DrainTarget, ...]:
        """Drops, and returns, what is not in the configuration any more."""
        gone = tuple(target for target in self._asked if not is_there(config, target))
        for target in gone:
            del self._asked[target]
        return gone

    def effective(self, config: Config) -> Config:
        """``config`` as if the file said all of it: so there is one mechanism for both."""
        if not self._asked:
            return config
        listeners = dict(config.listeners)
        services = dict(config.services)
        for name, listener in config.listeners.items():
            if self.asked(DrainTarget("listener", name)):
                listeners[name] = replace(listener, drain=True)
        addresses: dict[str, set[str]] = {}
        for target in self._asked:
            if target.kind == "endpoint":
                addresses.setdefault(target.name, set()).add(target.address)
        for name, service in config.services.items():
            if name in addresses:
                service = replace(service, endpoints=_drained(service.endpoints, addresses[name]))
            if self.asked(DrainTarget("service", name)):
                service = replace(service, drain=True)
            services[name] = service
        return replace(config, listeners=listeners, services=services)

    def listed(self, config: Config) -> Mapping[DrainTarget, DrainBy]:
        """All that drains, and who said so; the file goes first."""
        found: dict[DrainTarget, DrainBy] = dict.fromkeys(in_file(config), "file")
        for target in self._asked:
            if is_there(config, target):
                found.setdefault(target, "api")
        return found


def without_inbound(config: Config) -> Config:
    """``config`` with only those listeners open that a sidecar's application itself uses."""
    listeners = {
        name: replace(one, drain=True) if one.binds and one.direction == "inbound" else one
        for name, one in config.listeners.items()
    }
    return replace(config, listeners=listeners)


def in_file(config: Config) -> Iterator[DrainTarget]:
    """What the file itself says is to drain."""
    for listener in config.listeners.values():
        if listener.drain:
            yield DrainTarget("listener", listener.name)
    for service in config.services.values():
        if service.drain:
            yield DrainTarget("service", service.name)
        for endpoint in service.endpoints:
            if endpoint.drain:
                yield DrainTarget("endpoint", service.name, endpoint.address.text)


def is_there(config: Config, target: DrainTarget) -> bool:
    return _find(config, target) is not None


def file_says(config: Config, target: DrainTarget) -> bool:
    found = _find(config, target)
    return found is not None and found.drain


def _find(config: Config, target: DrainTarget) -> Listener | Service | Endpoint | None:
    if target.kind == "listener":
        return config.listeners.get(target.name)
    service = config.services.get(target.name)
    if service is None or target.kind == "service":
        return service
    return next((one for one in service.endpoints if one.address.text == target.address), None)


def _drained(endpoints: tuple[Endpoint, ...], addresses: set[str]) -> tuple[Endpoint, ...]:
    return tuple(replace(one, drain=True) if one.address.text in addresses else one for one in endpoints)
