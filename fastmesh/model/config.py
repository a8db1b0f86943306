"""A validated configuration: frozen data without I/O.

Every default is filled in and every reference holds: a `Forward` names services that exist, hosts and header
names are lower case, addresses are canonical. Durations are seconds, sizes bytes, shares fractions; `None`
where `none` (no limit) was written. Equal configurations compare equal.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from fastmesh.model.address import Address, Bind

Protocol = Literal["http", "tcp", "auto"]
Direction = Literal["inbound", "outbound"]
PathKind = Literal["prefix", "exact"]
PolicyName = Literal["round_robin", "random", "least_request", "ring_hash", "maglev"]
HashKeyKind = Literal["source_ip", "path", "header", "cookie", "query"]


class Admin(Struct, frozen=True):
    """The admin API: where it listens (None: off) and the token that a non-loopback POST needs."""

    bind: str | None = "127.0.0.1:9400"
    token: str | None = None

    def __repr__(self) -> str:
        return f"Admin(bind={self.bind!r}, token={'***' if self.token else None!r})"


class Drain(Struct, frozen=True):
    """Seconds from the drain signal to the closing of listeners, and from there to the end (inf: none)."""

    delay: float = 0.0
    timeout: float = 30.0


class AccessLog(Struct, frozen=True):
    """Where access lines go (`stdout` or a path) and their form."""

    to: str = "stdout"
    format: Literal["json", "combined"] = "json"


class Log(Struct, frozen=True):
    """fastmesh's own log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Limits(Struct, frozen=True):
    """What a client may send, sizes in bytes, and what the process may use.

    `body` None: any. `min_rate`: bytes a second that a client must send of a body, or take of an answer, at
    least (None: any). `connections` None: by RLIMIT_NOFILE. `memory` None: what the machine or the control
    group has.
    """

    header_bytes: int = 32 * 1024
    header_count: int = 100
    target_bytes: int = 8 * 1024
    method_bytes: int = 32
    body: int | None = None
    min_rate: int | None = 240
    connections: int | None = None
    memory: int | None = None


class Forwarded(Struct, frozen=True):
    """Which of X-Forwarded-For, -Proto, -Host and X-Request-Id are set on the way to an endpoint."""

    for_: bool = True
    proto: bool = True
    host: bool = True
    request_id: bool = True


class Forward(Struct, frozen=True):
    """Send to a service, chosen among (name, weight) by random share.

    `rewrite_prefix` replaces the matched prefix. `response_timeout` overrides the service's
    `timeouts.response` (None: no limit); UNSET keeps the service's.
    """

    targets: tuple[tuple[str, int], ...]
    rewrite_prefix: str | None = None
    response_timeout: float | UnsetType | None = UNSET


class Redirect(Struct, frozen=True):
    """Answer with a Location. `to` is an absolute path or an http(s) URL; the request's query is kept."""

    to: str
    status: int = 308


class Respond(Struct, frozen=True):
    """Answer without an endpoint."""

    status: int = 200
    body: bytes = b""


class Route(Struct, frozen=True):
    """Conditions that must all hold, and what to do. Empty `methods` and `hosts` match any.

    A prefix matches by whole path elements and ends in `/` only when it is `/` itself. `hosts` are lower-case
    names without port, or `*.name`, which matches any depth below `name`. `headers` are (lower-case name,
    exact value).
    """

    action: Forward | Redirect | Respond
    path_kind: PathKind = "prefix"
    path: str = "/"
    methods: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


class Listener(Struct, frozen=True):
    """One entry point. First matching route wins; one with `service:` has a single route that matches all.

    `upgrade` are the lower-case tokens of the Upgrade header that may pass (HTTP only). `drain`: it takes no
    new connections, and lets those that it has end. `direction`: outbound is what a sidecar's own application
    uses, and outlives the rest when the process ends.

    `intercept`: it takes connections that the kernel redirected (iptables REDIRECT), and hands each to the
    first listener `within` it that is for the connection's original destination; with none its own service
    takes it. A listener `within` another has no binds. It is for the destination `ports`, whatever the
    address, or where it has none for the addresses of its services' endpoints. With `protocol` `auto`
    (one route to one service) whoever speaks first decides between HTTP and TCP.

    `trusted` None: the file's `trusted_proxies`.
    """

    name: str
    binds: tuple[Bind, ...]
    protocol: Protocol = "http"
    accept_proxy: bool = False
    forwarded: Forwarded = Forwarded()
    upgrade: tuple[str, ...] = ("websocket",)
    routes: tuple[Route, ...] = ()
    drain: bool = False
    direction: Direction = "inbound"
    intercept: bool = False
    within: str | None = None
    ports: tuple[int, ...] = ()
    trusted: tuple[str, ...] | None = None


class HashKey(Struct, frozen=True):
    """Where a hash policy takes its key from; `name` is the header (lower case), cookie or query name."""

    kind: HashKeyKind
    name: str = ""


class Balance(Struct, frozen=True):
    """How an endpoint is picked. `key` is tried in order; `bounded_load` 1.25 is 125 % of the mean load.

    `ring_size` is the number of points of a ring, `table_size` that of a maglev table (a prime).
    """

    policy: PolicyName = "least_request"
    key: tuple[HashKey, ...] = ()
    bounded_load: float | None = None
    ring_size: int = 1024
    table_size: int = 65537


class Timeouts(Struct, frozen=True):
    """Seconds; None switches one off. `idle_tcp` is `idle` for TCP relays and tunnels.

    Both come from the one key `idle`; they differ only while it is not written at all.
    """

    connect: float | None = 1.0
    response: float | None = 15.0
    idle: float | None = 60.0
    idle_tcp: float | None = 3600.0
    header: float | None = 10.0
    total: float | None = None


RetryOn = Literal["connect-failure", "reset", "timeout"]


class Retries(Struct, frozen=True):
    """At most `attempts` retries after the first send of an exchange.

    `budget` (None: none) is the most that all retries of the service may be of its requests in flight, at
    least 3. `on` and `codes` say after what: a connection that could not be opened, one that broke (or made
    no sense) before a response, a time-out, a status code. `per_try` are seconds until a response's head, of
    each attempt. `retry_unsafe`: also what is not idempotent and may have reached an endpoint.
    """

    attempts: int = 2
    budget: float | None = 0.2
    on: tuple[RetryOn, ...] = ("connect-failure", "reset")
    codes: tuple[int, ...] = (503,)
    per_try: float | None = None
    retry_unsafe: bool = False


class Upstream(Struct, frozen=True):
    """Idle connections kept to each endpoint (per worker), and seconds until they are closed."""

    keepalive: int = 128
    idle: float | None = 55.0
    max_age: float | None = None


class BodyMatch(Struct, frozen=True):
    """What an answer's body must hold: a text, or what a regular expression finds."""

    text: str
    regex: bool = False


class Health(Struct, frozen=True):
    """Active checks. `healthy` and `unhealthy` are checks in a row; `interval` and `timeout` seconds.

    `host` None: the endpoint's address. `headers` are (name, value). `expect` are inclusive ranges of status
    codes. `port` None: the endpoint's. With fewer healthy than the share `panic` of all endpoints (None:
    never) all are used.
    """

    type: Literal["http", "tcp"] = "http"
    path: str = "/"
    method: str = "GET"
    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    expect: tuple[tuple[int, int], ...] = ((200, 399),)
    body: BodyMatch | None = None
    port: int | None = None
    interval: float = 2.0
    timeout: float = 1.0
    healthy: int = 2
    unhealthy: int = 3
    panic: float | None = None


class OutlierDetection(Struct, frozen=True):
    """When an endpoint is left out because of what its answers were.

    `consecutive_5xx` and `consecutive_gateway_errors` (502, 503, 504, broken connections and time-outs) count
    in a row; None switches one off. `success_rate`: how much lower than its peers' an endpoint's share of
    successes may be over `interval` seconds. It is left out for `base_ejection_time` seconds, each time in a
    row twice as long, at most `max_ejection_time`. No more than the share `max_ejected` of a service's
    endpoints (rounded up) is left out so, and never all.
    """

    consecutive_5xx: int | None = 5
    consecutive_gateway_errors: int | None = 3
    success_rate: float | None = 0.1
    interval: float = 5.0
    base_ejection_time: float = 1.0
    max_ejection_time: float = 30.0
    max_ejected: float = 0.5


class ServiceLimits(Struct, frozen=True):
    """What a service may be used for at most over all workers; None: no limit.

    `queue` requests may wait up to `queue_timeout` seconds for one in flight to end. The two of `endpoint`
    hold for each endpoint.
    """

    connections: int | None = None
    requests: int | None = None
    queue: int = 0
    queue_timeout: float = 5.0
    endpoint_connections: int | None = None
    endpoint_requests: int | None = None


class Endpoint(Struct, frozen=True, gc=False):
    """One place that a service can be reached at. Weight 0: gets no new requests.

    Requests go to `priority` 0 as long as enough of it can be used, then to 1 and so on. `drain`: it gets no
    new requests and finishes those that it has.
    """

    address: Address
    weight: int = 1
    labels: tuple[tuple[str, str], ...] = ()
    priority: int = 0
    drain: bool = False


class Service(Struct, frozen=True):
    """A set of endpoints and how to use them; `defaults` of the file are already merged in.

    `outlier_detection` None: only endpoints that take no connections are left out. `slow_start` are the
    seconds in which a new or recovered endpoint comes to its full share. `drain`: it gets no new requests,
    and has no share of those that are split over several services. `protocol` is what intercepted
    connections to it carry. `refresh`: seconds between two looks for the addresses of its names (None: by
    their time to live).
    """

    name: str
    endpoints: tuple[Endpoint, ...] = ()
    balance: Balance = Balance()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    upstream: Upstream = Upstream()
    health: Health | None = None
    send_proxy: Literal["v1", "v2"] | None = None
    outlier_detection: OutlierDetection | None = OutlierDetection()
    limits: ServiceLimits = ServiceLimits()
    slow_start: float | None = None
    drain: bool = False
    protocol: Protocol = "http"
    refresh: float | None = None


class ExitWith(Struct, frozen=True):
    """The process ends when process number `pid` does, or when nobody listens on TCP `port` any more."""

    kind: Literal["pid", "port"]
    number: int


class Sidecar(Struct, frozen=True):
    """The application that this process stands beside, reached at `app`. What it is given to listen on is
    among the listeners. `transparent`: connections come by interception."""

    app: tuple[Address, ...] = ()
    transparent: bool = False
    exit_with: ExitWith | None = None


class Secrets(Struct, frozen=True):
    """Texts that came from `${file:…}` or are secret by their key; never shown, not even by repr."""

    texts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Secrets({len(self.texts)} masked)"


class Config(Struct, frozen=True):
    """A whole configuration, in the file's order.

    `workers` None means automatic. `timeouts` are those of `defaults`: what holds for a client connection
    before its service is known (`header`, and `idle` between requests). `registry` is the folder as written
    in the file. `ready_timeout`: seconds after which the process calls itself ready even though names and
    checks have not all answered yet.
    """

    listeners: dict[str, Listener]
    services: dict[str, Service]
    admin: Admin = Admin()
    workers: int | None = None
    registry: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    drain: Drain = Drain()
    access_log: AccessLog | None = None
    log: Log = Log()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    ready_timeout: float = 10.0
    sidecar: Sidecar | None = None
    secrets: Secrets = Secrets()
