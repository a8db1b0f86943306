"""The keys about endpoints that fail: retries, outlier detection, limits, slow start, active checks."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.config import texts
from fastmesh.config.kinds import (
    NONE,
    VARIABLE_SCHEMA,
    Boolean,
    ByShape,
    Choice,
    Field,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Schema,
    Section,
    Text,
    duration,
    share,
    wrong_shape,
)
from fastmesh.config.source import SCALAR, Node

MOST_IN_A_ROW: Final = 1000
MOST_AT_ONCE: Final = 1_000_000
MOST_PRIORITY: Final = 127
MOST_RETRIES: Final = 10  # the data plane remembers so many endpoints that a request was sent to
DAY: Final = 86400.0  # seconds; the time until which an endpoint is left out has 32 bits of milliseconds
# Each name of `retries.on` that stands for status codes; the other names stand for themselves.
RETRY_CODES: Final = {"gateway-error": (502, 503, 504), "5xx": tuple(range(500, 600))}
RETRY_NAMES: Final = ("connect-failure", "reset", "timeout")
HTTP_CHECK_KEYS: Final = ("path", "method", "host", "headers", "expect", "body")


class NumberOr:
    """A number where digits stand, another kind of scalar everywhere else."""

    def __init__(self, number: Integer, other: Kind, says: str) -> None:
        self.number = number
        self.other = other
        self.says = says

    def read(self, node: Node, name: str) -> Any:
        if node.kind != SCALAR or node.is_null:
            return wrong_shape(node, name, self.says)
        digits = node.text.removeprefix("-").isdecimal()
        return (self.number if digits else self.other).read(node, name)

    def schema(self) -> Schema:
        return {"anyOf": [self.number.schema(), self.other.schema()]}

    @property
    def label(self) -> str:
        return f"{self.number.label}, or {self.other.label}"


class StatusRange(Text):
    """Status codes such as `200-299`, as (first, last)."""

    def __init__(self) -> None:
        super().__init__("status codes such as `200-299`", texts.parse_status_range)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string", "pattern": texts.STATUS_RANGE_PATTERN}, VARIABLE_SCHEMA]}


def _most(least: int = 1) -> Integer:
    """The most of something at one time; None where `none` is written."""
    return Integer(least, MOST_AT_ONCE, NONE)


_NO_RETRIES = "write `{attempts: 0}` for no retries"
RETRIES: Final = Section(
    "`retries`",
    {
        "attempts": Field(
            Integer(0, MOST_RETRIES),
            "Retries at most: 2 means up to three sends; 0 switches retries off.",
            default=2,
            example=1,
        ),
        "budget": Field(
            share(0.0, 1.0, none=True),
            "Retries in flight at most, as a share of the service's requests in flight; three are always "
            "allowed. `none` is no limit.",
            default="20%",
            example="10%",
        ),
        "on": Field(
            ListOf(
                NumberOr(
                    Integer(400, 599),
                    Choice({name: name for name in RETRY_NAMES} | RETRY_CODES, what="reason to retry"),
                    "a reason such as `reset`, or a status code",
                ),
                "a list of reasons and status codes such as `[connect-failure, reset, 503]`",
                single=True,
            ),
            "After what: `connect-failure`, `reset` (the connection broke, or made no sense, before a "
            "response), `timeout`, a status code, `gateway-error` (502, 503 and 504) or `5xx` (500 to 599). "
            "An empty list is never.",
            default=["connect-failure", "reset", 503],
            example=["connect-failure", "reset", "timeout", "gateway-error"],
        ),
        "per_try": Field(
            duration(none=True),
            "How long each attempt may wait for a response's head. When it is over, the next one follows, "
            "whether `on` has `timeout` or not.",
            default="none",
            example="2s",
        ),
        "retry_unsafe": Field(
            Boolean(),
            "Sends a request that may have reached an endpoint again, even if its method is not idempotent: "
            "a POST may then be done twice.",
            default=False,
            example=True,
        ),
    },
    hints={
        "off": _NO_RETRIES,
        "none": _NO_RETRIES,
        "false": _NO_RETRIES,
        "retry_on": "write `on`: a list such as `[connect-failure, reset, 503]`",
    },
)

OUTLIER_DETECTION: Final = ByShape(
    "`off`, or a mapping",
    scalar=Choice({"off": None}),
    mapping=Section(
        "`outlier_detection`",
        {
            "consecutive_5xx": Field(
                Integer(1, MOST_IN_A_ROW, NONE),
                "Answers from 500 to 599 (but 501 and 505), broken connections and time-outs in a row that "
                "eject an endpoint.",
                default=5,
                example=10,
            ),
            "consecutive_gateway_errors": Field(
                Integer(1, MOST_IN_A_ROW, NONE),
                "As before, of the answers only 502, 503 and 504.",
                default=3,
                example=5,
            ),
            "success_rate": Field(
                share(0.01, 1.0, none=True),
                "How much lower than that of its peers an endpoint's share of successes may be.",
                default="10%",
                example="20%",
            ),
            "interval": Field(
                duration(0.01, DAY),
                "The time over which `success_rate` is compared.",
                default="5s",
                example="10s",
            ),
            "base_ejection_time": Field(
                duration(0.001, DAY),
                "How long the first ejection lasts; each one after it in a row lasts twice as long.",
                default="1s",
                example="5s",
            ),
            "max_ejection_time": Field(
                duration(0.001, DAY), "How long one lasts at most.", default="30s", example="5m"
            ),
            "max_ejected": Field(
                share(0.01, 1.0),
                "The share of a service's endpoints (rounded up) that may be ejected at one time; never all.",
                default="50%",
                example="25%",
            ),
        },
        hints={"max_ejection_percent": "write `max_ejected`, a share such as `50%`"},
    ),
)

_CLIENT_LIMIT = "it belongs to the `limits` of the file, beside `listeners`: what a client may send"
SERVICE_LIMITS: Final = Section(
    "`limits` (of a service)",
    {
        "connections": Field(_most(), "Connections to all endpoints together.", default="none", example=2000),
        "requests": Field(
            _most(),
            "HTTP requests in flight at all endpoints together.",
            default="none",
            example=1000,
        ),
        "queue": Field(
            Integer(0, MOST_AT_ONCE),
            "Requests that may wait for one in flight to end, when one of the limits is reached.",
            default=0,
            example=100,
        ),
        "queue_timeout": Field(
            duration(), "How long one may wait (then 503 `queue_timeout`).", default="5s", example="500ms"
        ),
        "endpoint": Field(
            Section(
                "`endpoint`",
                {
                    "connections": Field(_most(), "Connections.", default="none", example=200),
                    "requests": Field(_most(), "Requests in flight.", default="none", example=100),
                },
            ),
            "The same for each endpoint: one that is at its limit is passed over.",
            example={"requests": 100},
        ),
    },
    hints=dict.fromkeys(
        ("header_bytes", "header_count", "target_bytes", "method_bytes", "body", "min_rate"), _CLIENT_LIMIT
    ),
)
SERVICE_LIMIT_HINTS: Final = dict.fromkeys(
    ("requests", "queue", "queue_timeout", "endpoint"),
    "it belongs to the `limits` of a service, or of `defaults`: how much a service may be used",
)

SLOW_START: Final = duration(none=True)

_BODY = ByShape(
    "a text, or `{regex: ...}`",
    scalar=Text("a text, or `{regex: ...}`", texts.parse_not_empty),
    mapping=Section(
        "`body`",
        {
            "regex": Field(
                Text("a regular expression", texts.parse_regex),
                "What is searched for in the body, in the syntax of Python.",
                example="^ok",
                required=True,
            )
        },
    ),
)
HEALTH: Final = ByShape(
    "a path such as `/healthz`, `tcp`, `off`, or a mapping",
    scalar=Text(
        "a path such as `/healthz`, `tcp`, `off`, or a mapping",
        texts.parse_health,
        words={"off": None, "tcp": "tcp"},
    ),
    mapping=Section(
        "`health`",
        {
            "type": Field(
                Choice({"http": "http", "tcp": "tcp"}, what="type"),
                "`http` asks and looks at the answer, `tcp` opens a connection and closes it.",
                default="http",
                example="tcp",
            ),
            "path": Field(
                Text("a path such as `/healthz`", texts.parse_target),
                "What is asked for; a query may follow.",
                default="/",
                example="/healthz",
            ),
            "method": Field(
                Text("a method such as `GET`", texts.parse_check_method),
                "The request's method; it is sent without a body.",
                default="GET",
                example="HEAD",
            ),
            "host": Field(
                Text("a host such as `example.com`", texts.parse_authority),
                "The request's Host. Left out, it is the endpoint's address.",
                example="shop.example.com",
            ),
            "headers": Field(
                MapOf(
                    Text("text", texts.parse_check_value),
                    "headers such as `{x-probe: fastmesh}`",
                    texts.parse_check_header,
                ),
                "Further headers of the request.",
                example={"x-probe": "fastmesh"},
            ),
            "expect": Field(
                ListOf(
                    NumberOr(Integer(200, 599), StatusRange(), "a status code, or a range such as `200-299`"),
                    "status codes such as `200` or `[200, 300-399]`",
                    single=True,
                    empty=False,
                ),
                "The status codes that are good: one, a range, or a list of them.",
                default="200-399",
                example=[200, "300-399"],
            ),
            "body": Field(
                _BODY,
                "What the body must hold: a text, or what a regular expression finds.",
                example="ok",
            ),
            "port": Field(
                Integer(1, 65535),
                "The port that is asked. Left out, it is the endpoint's.",
                example=9000,
            ),
            "interval": Field(
                duration(0.01), "From the start of one check to that of the next.", default="2s", example="5s"
            ),
            "timeout": Field(duration(), "How long an answer may take.", default="1s", example="500ms"),
            "healthy": Field(
                Integer(1, MOST_IN_A_ROW),
                "Good checks in a row that bring an endpoint back. The very first check decides alone.",
                default=2,
                example=1,
            ),
            "unhealthy": Field(
                Integer(1, MOST_IN_A_ROW), "Failed checks in a row that take one out.", default=3, example=2
            ),
            "panic_threshold": Field(
                share(0.01, 1.0, none=True),
                "With a smaller share of the endpoints healthy than this, all are used: checks that fail "
                "nearly everywhere say more about the checks. `none` is never.",
                default="none",
                example="30%",
            ),
        },
    ),
)
PRIORITY: Final = Integer(0, MOST_PRIORITY)
