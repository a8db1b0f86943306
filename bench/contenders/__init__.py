"""What is measured: each proxy's configuration, how it is started, reloaded and drained, and its version.

All forward to the same origin on 127.0.0.1, with one worker or thread. `bench/peers/` has the configurations.

* `contender`  the types, and how a configuration is filled in
* `running`    one that serves: reload, drain, process tree, end
* `baseline`   what the proxies are held against: `direct` (no proxy) and `floor` (bytes passed on)
* `fastmesh`, `nginx`, `haproxy`, `envoy`, `traefik`, `caddy`: one family each
* `choice`     all of them in their order, and those of one's own (`--peer NAME=/path`)
"""

from bench.contenders.baseline import DIRECT, FLOOR
from bench.contenders.caddy import CADDY
from bench.contenders.choice import CONTENDERS, parse_peer, with_peers
from bench.contenders.contender import (
    HTTP,
    LOGGED,
    PLAIN,
    POLICIES,
    RELOADABLE,
    TCP,
    Command,
    Contender,
    Job,
    connection_limit,
)
from bench.contenders.envoy import ENVOY
from bench.contenders.fastmesh import FASTMESH, fastmesh_in, fastmesh_python, replace_and_reload
from bench.contenders.haproxy import HAPROXY
from bench.contenders.nginx import NGINX
from bench.contenders.running import Running, start
from bench.contenders.traefik import TRAEFIK

__all__ = [
    "CADDY",
    "CONTENDERS",
    "DIRECT",
    "ENVOY",
    "FASTMESH",
    "FLOOR",
    "HAPROXY",
    "HTTP",
    "LOGGED",
    "NGINX",
    "PLAIN",
    "POLICIES",
    "RELOADABLE",
    "TCP",
    "TRAEFIK",
    "Command",
    "Contender",
    "Job",
    "Running",
    "connection_limit",
    "fastmesh_in",
    "fastmesh_python",
    "parse_peer",
    "replace_and_reload",
    "start",
    "with_peers",
]
