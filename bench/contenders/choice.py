"""All contenders in the order in which they are shown, and those that one brings oneself."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from bench.contenders.baseline import DIRECT, FLOOR
from bench.contenders.caddy import CADDY
from bench.contenders.contender import Contender
from bench.contenders.envoy import ENVOY
from bench.contenders.fastmesh import FASTMESH
from bench.contenders.haproxy import HAPROXY
from bench.contenders.nginx import NGINX
from bench.contenders.traefik import TRAEFIK
from bench.harness.place import BenchError

_ORDER = (DIRECT, FLOOR, FASTMESH, NGINX, HAPROXY, ENVOY, TRAEFIK, CADDY)
CONTENDERS: dict[str, Contender] = {contender.name: contender for contender in _ORDER}

_PEER = re.compile(r"(?P<name>[a-z]+)(?:@(?P<label>[\w.-]+))?=(?P<path>.+)")


def parse_peer(text: str) -> tuple[str, str | None, str]:
    """`nginx@old=/opt/nginx` -> name, label, path. Without a label the usual one is replaced."""
    match = _PEER.fullmatch(text)
    if match is None:
        raise BenchError(f"--peer {text}: write NAME=/path/to/program, or NAME@LABEL=/path/to/program")
    name = match["name"]
    named = [contender.name for contender in _ORDER if contender.rebuild is not None]
    if name not in named:
        raise BenchError(f"--peer {text}: there is no peer {name!r}; there are: {', '.join(named)}")
    # Not `resolve`: a Python of a virtual environment is a link to one that does not have its packages.
    path = Path(shutil.which(match["path"]) or match["path"]).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise BenchError(f"--peer {text}: {path} is not a program that can be run")
    return name, match["label"], str(path)


def with_peers(texts: Iterable[str]) -> dict[str, Contender]:
    """`CONTENDERS` with the peers of `--peer`: in place of the usual ones, or, with a label, after them."""
    families = {name: {name: contender} for name, contender in CONTENDERS.items()}
    for text in texts:
        name, label, path = parse_peer(text)
        try:
            contender = CONTENDERS[name].with_binary(path, label)
        except BenchError as error:
            raise BenchError(f"--peer {text}: is it {name}? {error}") from error
        families[name][contender.name] = contender
    return {name: contender for family in families.values() for name, contender in family.items()}
