"""The keys of a service: endpoints, policy, time-outs, connections. Those about failures: `failure_keys`."""

from __future__ import annotations

from typing import Final

from fastmesh.config import texts
from fastmesh.config.failure_keys import (
    HEALTH,
    OUTLIER_DETECTION,
    PRIORITY,
    RETRIES,
    SERVICE_LIMITS,
    SLOW_START,
)
from fastmesh.config.kinds import (
    Boolean,
    ByShape,
    Choice,
    Field,
    Integer,
    ListOf,
    MapOf,
    Named,
    Section,
    Text,
    Wrong,
    duration,
    share,
)

POLICIES: Final = {
    "round_robin": "round_robin",
    "weighted_round_robin": "round_robin",
    "random": "random",
    "least_request": "least_request",
    "ring_hash": "ring_hash",
    "maglev": "maglev",
}
PROTOCOLS: Final = Choice({"http": "http", "tcp": "tcp", "auto": "auto"}, what="protocol")
UNBUILT_POLICIES: Final = ("peak_ewma", "utilization", "prequal")
HASH_POLICIES: Final = ("ring_hash", "maglev")
MAX_WEIGHT: Final = 65535


def check_prime(value: int) -> None:
    if value % 2 == 0 or any(value % odd == 0 for odd in range(3, int(value**0.5) + 1, 2)):
        raise Wrong(f"{value} is not a prime number", "the usual table sizes are 65537 and 655373")


WEIGHT: Final = Integer(0, MAX_WEIGHT)
ADDRESS_KEYS: Final = ("address", "dns", "dns_srv")  # an endpoint has one of them

_ENDPOINT_ADDRESS = Text("an address such as `10.0.0.1:8080` or `unix:/path`", texts.parse_endpoint)

_LABELS = MapOf(Text("text"), "labels such as `{version: v1}`")
_ENDPOINT = Named(
    "endpoint",
    ByShape(
        "an address such as `10.0.0.1:8080`, or a mapping with `address`, `dns` or `dns_srv`",
        scalar=_ENDPOINT_ADDRESS,
        mapping=Section(
            "an endpoint",
            {
                "address": Field(
                    _ENDPOINT_ADDRESS,
                    "`ip:port`, `[v6]:port`, `name:port` (looked up in DNS) or `unix:/path`.",
                    example="10.0.0.1:8080",
                ),
                "dns": Field(
                    Text("a name and a port such as `api:8080`", texts.parse_dns),
                    "In place of `address`: `name:port`, looked up again and again, all its addresses used.",
                    example="api:8080",
                ),
                "dns_srv": Field(
                    Text("a name such as `_http._tcp.api`", texts.parse_dns_srv),
                    "In place of `address`: the name of SRV records, which say hosts, ports, priorities and "
                    "weights.",
                    example="_http._tcp.api",
                ),
                "weight": Field(
                    WEIGHT,
                    "Share of the requests, relative to the other endpoints; 0 gets no new ones.",
                    default=1,
                    example=3,
                ),
                "priority": Field(
                    PRIORITY,
                    "The group of the endpoint. Requests go to the lowest number as long as enough of its "
                    "endpoints can be used, then to the next.",
                    default=0,
                    example=1,
                ),
                "drain": Field(
                    Boolean(),
                    "Gets no new requests, and finishes those that it has.",
                    default=False,
                    example=True,
                ),
                "labels": Field(
                    _LABELS, "Free names and values, shown by the admin API.", example={"version": "v1"}
                ),
            },
            {"oneOf": [{"required": [key]} for key in ADDRESS_KEYS]},
        ),
    ),
)
_HASH_KEY = ByShape(
    "`source_ip`, `path`, `{header: NAME}`, `{cookie: NAME}` or `{query: NAME}`",
    scalar=Choice({"source_ip": "source_ip", "path": "path"}, what="hash key"),
    mapping=Section(
        "a hash key",
        {
            "header": Field(
                Text("a header's name", texts.lower_token("a header's name")),
                "A request header's value.",
                example="x-user",
            ),
            "cookie": Field(
                Text("a cookie's name", texts.token("a cookie's name")),
                "A cookie's value.",
                example="session",
            ),
            "query": Field(
                Text("a parameter's name", texts.parse_line),
                "A parameter of the query, as it is encoded.",
                example="user",
            ),
        },
        {"minProperties": 1, "maxProperties": 1},
    ),
)
_POLICY = Choice(POLICIES, UNBUILT_POLICIES, "policy")
_BALANCE = ByShape(
    "a policy's name, or a mapping with `policy`",
    scalar=_POLICY,
    mapping=Section(
        "`balance`",
        {
            "policy": Field(
                _POLICY,
                "`least_request` (fewer requests in flight of two picked by weight), `round_robin` "
                "(weighted, evenly "
                "interleaved; `weighted_round_robin` is the same), `random` (weighted), `ring_hash`, "
                "`maglev`.",
                default="least_request",
                example="ring_hash",
            ),
            "key": Field(
                ListOf(_HASH_KEY, _HASH_KEY.says + ", or a list of them", single=True, empty=False),
                "What `ring_hash` and `maglev` hash: `source_ip`, `path`, `{header: NAME}`, `{cookie: "
                "NAME}`, "
                "`{query: NAME}`, or a list of them, of which the first that is present counts. When "
                "none is, the "
                "pick is random.",
                default="source_ip",
                example={"header": "x-user"},
            ),
            "bounded_load": Field(
                share(1.0, 100.0, none=True),
                "For `ring_hash` and `maglev`: an endpoint with more requests in flight than this share "
                "of the mean "
                "is passed over. At least 100%.",
                default="none",
                example="125%",
            ),
            "ring_size": Field(
                Integer(1024, 8_388_608),
                "For `ring_hash`: the least number of points on the ring.",
                default=1024,
                example=4096,
            ),
            "table_size": Field(
                Integer(2, 5_000_011, check=check_prime),
                "For `maglev`: the number of entries of the table, a prime.",
                default=65537,
                example=655373,
            ),
        },
    ),
)

_TIMEOUTS = Section(
    "`timeouts`",
    {
        "connect": Field(
            duration(none=True),
            "Until a connection to an endpoint stands (then 504).",
            default="1s",
            example="250ms",
        ),
        "response": Field(
            duration(none=True),
            "From the request sent until the response's head came (then 504).",
            default="15s",
            example="3s",
        ),
        "idle": Field(
            duration(none=True),
            "Silence in either direction of a body, a tunnel or a TCP relay, and of a client between two "
            "requests. "
            "Built in are 60 s, and 1 h for TCP and tunnels; when the key is written, it holds for all.",
            default="60s",
            example="5m",
        ),
        "header": Field(
            duration(none=True),
            "Until a request's head is complete (then 408). It runs before a service is known, so only "
            "the one of "
            "`defaults` counts.",
            default="10s",
            example="5s",
        ),
        "total": Field(
            duration(none=True),
            "The whole exchange with its retries (then 504).",
            default="none",
            example="30s",
        ),
    },
)
_UPSTREAM = Section(
    "`upstream`",
    {
        "keepalive": Field(
            Integer(0, 1_000_000),
            "Idle connections kept to each endpoint by each worker; 0 closes each after its exchange.",
            default=128,
            example=32,
        ),
        "idle": Field(
            duration(none=True), "How long an idle connection is kept.", default="55s", example="20s"
        ),
        "max_age": Field(
            duration(none=True),
            "How old a connection may get before it is closed instead of kept.",
            default="none",
            example="10m",
        ),
    },
)


def inherited_keys() -> dict[str, Field]:
    """The keys that `defaults` and a service share; a service overrides them one by one."""
    return {
        "timeouts": Field(_TIMEOUTS, "How long each step may take.", example={"response": "3s"}),
        "retries": Field(
            RETRIES, "When a request is sent again, to another endpoint.", example={"attempts": 1}
        ),
        "outlier_detection": Field(
            OUTLIER_DETECTION,
            "When an endpoint is ejected (left out for a while) because of its answers. With `off`, only one "
            "that takes no connections is.",
            example={"consecutive_5xx": 10},
        ),
        "limits": Field(
            SERVICE_LIMITS,
            "How much a service may be used at one time by all clients together; what is over gets 503 "
            "`too_many_requests` or `too_many_connections` at once. Not to be confused with `limits` of the "
            "file: what a client may send.",
            example={"requests": 1000},
        ),
        "slow_start": Field(
            SLOW_START,
            "How long a new or recovered endpoint takes to come to its full share.",
            default="none",
            example="30s",
        ),
        "upstream": Field(_UPSTREAM, "Connections to endpoints.", example={"keepalive": 32}),
        "balance": Field(
            _BALANCE,
            "How an endpoint is picked: a policy's name, or a mapping.",
            default="least_request",
            example="maglev",
        ),
    }


SERVICE: Final = Section(
    "service `{name}`",
    {
        "endpoints": Field(
            ListOf(_ENDPOINT, "a list of addresses such as `[10.0.0.1:8080]`", single=True),
            "Where the service is: a list of addresses, or of mappings with `address`, `dns` or `dns_srv`; "
            "one alone needs no list. An empty list answers 503 `no_endpoint`.",
            example=["10.0.0.1:8080"],
        ),
        "refresh": Field(
            duration(1.0, 3600.0),
            "How often the names among the endpoints are looked up. Without it as often as DNS says: after "
            "the time to live of the answer, within 1 s and 30 s; and every second when the server is on a "
            "loopback address, as Docker's is.",
            example="1s",
        ),
        **inherited_keys(),
        "health": Field(
            HEALTH,
            "Active checks: what is asked of each endpoint, and how often. A path alone is an HTTP check "
            "with the defaults, `tcp` one that opens a connection.",
            default="off",
            example="/healthz",
        ),
        "send_proxy": Field(
            Choice({"off": None, "v1": "v1", "v2": "v2"}, what="version"),
            "PROXY protocol towards the endpoint.",
            default="off",
            example="v2",
        ),
        "protocol": Field(
            PROTOCOLS,
            "What connections of a sidecar to this service carry. With `auto` the endpoint is connected at "
            "once, and whoever speaks first decides: HTTP/1 if it is the client with a request, else TCP.",
            default="http",
            example="tcp",
        ),
        "drain": Field(
            Boolean(),
            "Gets no new requests (503 `draining`; of a split the other services get its share), and "
            "finishes those that it has.",
            default=False,
            example=True,
        ),
    },
)
SERVICES: Final = MapOf(Named("service", SERVICE), "services by name", texts.parse_name, texts.NAME_PATTERN)
