"""Each mistake that a file can have: the exact place, text and advice."""

# ruff: noqa: E501 (one line for each case reads best)

import textwrap
from pathlib import Path

import pytest

from fastmesh.config import load
from fastmesh.errors import ConfigError

GOOD = "listeners: {web: {bind: ':8080', service: user}}\nservices: {user: {endpoints: [10.0.0.1:80]}}\n"

# Names for the parts of a file that a case does not care about; each keeps its line count.
LISTENERS = "listeners: {web: {bind: ':8080', service: user}}\n"
SERVICES = "services: {user: {endpoints: [10.0.0.1:80]}}\n"


def route(text: str) -> str:
    """A file whose only route is `text`, in line 2 at column 6."""
    return f"listeners: {{web: {{bind: ':8080', routes: [\n     {text}\n]}}}}\n{SERVICES}"


def service(text: str) -> str:
    """A file whose service `user` has `text` in line 4 at column 5."""
    return f"{LISTENERS}services:\n  user:\n    {text}\n"


def settings(text: str) -> str:
    """A valid file with `text` in front."""
    return f"{text}\n{GOOD}"


def listener(text: str) -> str:
    """A file whose listener `web` has `text` in line 3 at column 5."""
    return f"listeners:\n  web:\n    {text}\n{SERVICES}"


MISTAKES = [
    # the file itself
    ("", ["f: the file is empty; write at least `listeners:` and `services:`"]),
    ("# only a comment\n", ["f: the file is empty; write at least `listeners:` and `services:`"]),
    ("null\n", ["f: the file is empty; write at least `listeners:` and `services:`"]),
    ("[1]\n", ["f:1:1: `the file` needs a mapping, not a list"]),
    (GOOD + "---\na: b\n", ["f:3:1: a second document starts here; a file holds one: split it into two files, or remove this line"]),
    (settings("admin: off\nadmin: off"), ["f:2:1: `admin` is set twice; it was set in line 1 already; remove one"]),
    (settings("\tworkers: 1"), ["f:1:1: a tab cannot indent; indent with spaces"]),
    (settings("workers: [1"), ["f:2:10: this is not valid YAML: did not find expected ',' or ']' (in the flow sequence that starts in line 1); close the bracket, or put a comma between the values"]),
    (settings("workers: 'x"), ["f:2:26: this is not valid YAML: did not find expected key (in the block mapping that starts in line 1); check the indentation of this line and of the one before"]),
    (settings("a: b: c"), ["f:1:5: this is not valid YAML: mapping values are not allowed in this context; quote a value that contains `: `, or check the indentation"]),
    (settings("admin: @x"), ["f:1:8: a value cannot start with `@`; put it in quotes"]),
    (settings("admin: {bind: :80}"), ["f:1:15: a value cannot start with `:` inside `{ }` or `[ ]`; put it in quotes"]),
    (settings("admin: {bind: ${A}}"), ["f:1:16: `${…}` inside `{ }` or `[ ]` must be in quotes; write `\"${VAR}\"`"]),
    (settings("workers: *x"), ["f:1:10: the alias `*x` has no anchor before it; write `&x` where the value stands, or quote the text"]),
    (settings("log: &l {level: *l}"), ["f:1:17: the alias `*l` stands inside its own anchor"]),
    (settings("workers: !!python/name:os.system 1"), ["f:1:10: the tag `!!python/name:os.system` is not supported; remove it"]),
    (settings("log: {<<: 1}"), ["f:1:11: `<<` merges mappings, and this is `1`; write `<<: *anchor`, where the anchor stands at a mapping"]),
    (settings("? [a]\n: b"), ["f:1:3: a list cannot be a key"]),
    (settings("\"\": b"), ["f:1:1: the key is empty; write a name before the `:`"]),
    (settings("log: {level: \x07}"), ["f:1:14: the character U+0007 is not allowed in YAML; remove it"]),
    # shapes, names of keys
    (settings("admn: off"), ["f:1:1: the file has no key `admn`; did you mean `admin`?"]),
    (settings("trusted-proxies: []"), ["f:1:1: the file has no key `trusted-proxies`; did you mean `trusted_proxies`?"]),
    (settings("drain: {x: 1}"), ["f:1:9: `drain` has no key `x`; the keys here are `delay` and `timeout`"]),
    (settings("log: [info]"), ["f:1:6: `log` needs a mapping with `level` or `format`, not a list"]),
    (settings("workers:"), ["f:1:9: `workers` has no value; write a whole number from 1 to 1,024, or `auto`, or remove the key"]),
    (settings("workers: {a: 1}"), ["f:1:10: `workers` needs a whole number from 1 to 1,024, or `auto`, not a mapping"]),
    # numbers, durations, sizes, shares
    (settings("workers: two"), ["f:1:10: `workers` needs a whole number from 1 to 1,024, or `auto`, not `two`"]),
    (settings("workers: 0"), ["f:1:10: `workers`: 0 is out of range; write a whole number from 1 to 1,024, or `auto`"]),
    (settings("workers: 04"), ["f:1:10: `workers`: `04` starts with 0; write `4`"]),
    (settings("workers: '4'"), ["f:1:10: `workers` needs a number, and quotes make `\"4\"` text; remove the quotes"]),
    (settings("workers: 1.5"), ["f:1:10: `workers` needs a whole number from 1 to 1,024, or `auto`, not `1.5`"]),
    (settings("drain: {delay: 5}"), ["f:1:16: `delay`: `5` has no unit; write `5s` for seconds or `5ms` for milliseconds"]),
    (settings("drain: {delay: -5s}"), ["f:1:16: `delay`: `-5s` is negative; a duration is 0s or longer"]),
    (settings("drain: {delay: 5 min}"), ["f:1:16: `delay`: `5 min` is not a duration; write one such as `250ms`, `2s`, `1m` or `1h30m`"]),
    (settings("ready_timeout: none"), ["f:1:16: `ready_timeout`: `none` is not possible here; write a duration such as `2s`"]),
    (settings("drain: {delay: none}"), ["f:1:16: `delay`: `none` is not possible here; write a duration such as `2s`"]),
    (settings("defaults: {timeouts: {connect: 0s}}"), ["f:1:32: `connect`: `0s` is too small; the least is 1ms"]),
    (settings("limits: {body: 1000}"), ["f:1:16: `body`: `1000` has no unit; write `1000B` for bytes or `1000KiB` for units of 1,024"]),
    (settings("limits: {body: 10MB}"), ["f:1:16: `body`: `10MB` is not a size; units are powers of 1,024: write `10MiB`"]),
    (settings("limits: {memory: none}"), ["f:1:18: `memory`: `none` is not possible here; write a size such as `16KiB`, or `auto`"]),
    (settings("limits: {memory: 1MiB}"), ["f:1:18: `memory`: `1MiB` is too small; the least is 16MiB"]),
    (settings("limits: {min_rate: 0B}"), ["f:1:20: `min_rate`: `0B` is too small; the least is 1B"]),
    (settings("limits: {header_bytes: 1B}"), ["f:1:24: `header_bytes`: `1B` is too small; the least is 256B"]),
    (settings("defaults: {balance: {policy: maglev, bounded_load: 125}}"), ["f:1:52: `bounded_load`: `125` has no unit; write a percentage such as `125%`"]),
    (settings("defaults: {balance: {policy: maglev, bounded_load: 80%}}"), ["f:1:52: `bounded_load`: `80%` is too small; the least is 100%"]),
    (settings("defaults: {balance: {policy: maglev, table_size: 1000}}"), ["f:1:50: `table_size`: 1000 is not a prime number; the usual table sizes are 65537 and 655373"]),
    # words
    (settings("log: {level: inf}"), ["f:1:14: `level`: there is no level `inf`; did you mean `info`?"]),
    (settings("log: {level: 7}"), ["f:1:14: `level`: there is no level `7`; write `debug`, `info`, `warning` or `error`"]),
    (settings("access_log: stdout"), ["f:1:13: `access_log`: there is no value `stdout`; write `off`"]),
    (listener("{bind: ':1', service: user, accept_proxy: yes}"), ["f:3:47: `accept_proxy` needs `true` or `false`, not `yes`; `yes` is text in YAML 1.2: write `true`"]),
    (listener("{bind: ':1', service: user, accept_proxy: 'true'}"), ["f:3:47: `accept_proxy` needs `true` or `false`, and quotes make `\"true\"` text; remove the quotes"]),
    # addresses
    (settings("admin: localhost:9400"), ["f:1:8: `admin`: `localhost:9400` is a name, and listening needs an address; write `127.0.0.1:9400`"]),
    (settings("trusted_proxies: [10.0.0.1/8]"), ["f:1:19: `trusted_proxies`: `10.0.0.1/8` has bits set after the prefix; write `10.0.0.0/8`"]),
    (settings("trusted_proxies: [lan]"), ["f:1:19: `trusted_proxies`: `lan` is not an address range; write one such as `10.0.0.0/8` or `2001:db8::/32`"]),
    (listener("{bind: 8080, service: user}"), ["f:3:12: `bind`: `8080` is only a port; write `:8080` for all addresses, or `127.0.0.1:8080`"]),
    (listener("{bind: 127.0.0.1, service: user}"), ["f:3:12: `bind`: `127.0.0.1` has no port; write `127.0.0.1:8080`"]),
    (listener("{bind: '*:80', service: user}"), ["f:3:12: `bind`: `*:80` has `*` as its host; write `:80` for all addresses"]),
    (listener("{bind: '::1:80', service: user}"), ["f:3:12: `bind`: `::1:80` is not `host:port`; an IPv6 address stands in brackets: `[::1]:8080`"]),
    (listener("{bind: '[::1:80', service: user}"), ["f:3:12: `bind`: `[::1:80` has no closing `]`; write `[::1]:port`"]),
    (listener("{bind: '[::g]:80', service: user}"), ["f:3:12: `bind`: `::g` is not an IPv6 address; write one such as `[2001:db8::1]:8080`"]),
    (listener("{bind: '0.0.0.0:70000', service: user}"), ["f:3:12: `bind`: `0.0.0.0:70000`: port 70000 is out of range; a port is from 0 to 65535"]),
    (listener("{bind: unix:run/x.sock, service: user}"), ["f:3:12: `bind`: `unix:run/x.sock`: the path is not absolute; write `unix:/path/to/socket`"]),
    (listener("{bind: unix:/" + "x" * 107 + ", service: user}"), ["f:3:12: `bind`: the path is 108 bytes long; the system allows 107"]),
    (listener("{bind: [':80', '127.0.0.1:80'], service: user}"), ["f:3:20: `127.0.0.1:80` is taken: listener `web` (line 3) has `:80`, which includes it; choose another port"]),
    (listener("{bind: ['1.1.1.1:80', '0.0.0.0:80'], service: user}"), ["f:3:27: `0.0.0.0:80` is taken: listener `web` (line 3) has `1.1.1.1:80`, which is part of it; choose another port"]),
    (listener("{bind: ':9400', service: user}"), ["f:3:12: `:9400` is taken: the admin API has `127.0.0.1:9400`, which is part of it; choose another port"]),
    (service("endpoints: [10.0.0.300:80]"), ["f:4:17: `endpoints`: `10.0.0.300` is not an IPv4 address; four numbers from 0 to 255, without leading zeros"]),
    (service("endpoints: [10.0.0.01:80]"), ["f:4:17: `endpoints`: `10.0.0.01` is not an IPv4 address; four numbers from 0 to 255, without leading zeros"]),
    (service("endpoints: ['http://a:80/']"), ["f:4:17: `endpoints`: `http://a:80/` is a URL; write `a:80`"]),
    (service("endpoints: [a_b:0]"), ["f:4:17: `endpoints`: `a_b:0`: port 0 is out of range; a port is from 1 to 65535"]),
    (service("endpoints: [':80']"), ["f:4:17: `endpoints`: `:80` has no host; write `127.0.0.1:80` for this machine"]),
    (service("endpoints: [a..b:80]"), ["f:4:17: `endpoints`: `a..b` is not a host name; letters, digits and `-`, in parts joined by `.`"]),
    (service("endpoints: [a:b]"), ["f:4:17: `endpoints`: `a:b`: `b` is not a port; a port is a number from 1 to 65535"]),
    (service("endpoints: ['[fe80::1%eth0]:80']"), ["f:4:17: `endpoints`: `[fe80::1%eth0]:80` has a zone; addresses with `%zone` are not supported"]),
    (service("endpoints: [a:1, b:1, A:1]"), ["f:4:27: service `user` has the endpoint `a:1` twice; it stands in line 4 already; give that one a larger `weight` instead"]),
    (service("endpoints: [{weight: 1}]"), ["f:4:17: an endpoint needs `address`, `dns` or `dns_srv`; write an address such as `10.0.0.1:8080`, `dns: api:8080` or `dns_srv: _http._tcp.api`"]),
    (service("endpoints: [{dns: 'a:1', dns_srv: _http._tcp.a}]"), ["f:4:30: an endpoint has `dns` or `dns_srv`, not both; write two endpoints, or remove one"]),
    (service("endpoints: {dns: '10.0.0.1:80'}"), ["f:4:22: `dns`: `10.0.0.1:80` is an address, and DNS knows names; write `address: 10.0.0.1:80`"]),
    (service("endpoints: {dns: 'unix:/a'}"), ["f:4:22: `dns`: `unix:/a` is a path, and DNS knows names; write `address: unix:/a`"]),
    (service("endpoints: {dns: api}"), ["f:4:22: `dns`: `api` has no port; write `api:8080`"]),
    (service("endpoints: {dns_srv: 'api:80'}"), ["f:4:26: `dns_srv`: `api:80` has a port, and SRV records say the ports; write `api`, or `dns: api:80` for the addresses of a host"]),
    (service("endpoints: {dns_srv: _http._udp.api}"), ["f:4:26: `dns_srv`: `_http._udp.api` is a service over UDP; write `_http._tcp.api`"]),
    (service("endpoints: {dns_srv: 10.0.0.1}"), ["f:4:26: `dns_srv`: `10.0.0.1` is not a name; write one such as `_http._tcp.api`"]),
    (service("endpoints: {dns_srw: a}"), ["f:4:16: an endpoint needs `address`, `dns` or `dns_srv`; write an address such as `10.0.0.1:8080`, `dns: api:8080` or `dns_srv: _http._tcp.api`", "f:4:17: an endpoint has no key `dns_srw`; did you mean `dns_srv`?"]),
    (service("{endpoints: {dns: 'api:1'}, refresh: 500ms}"), ["f:4:42: `refresh`: `500ms` is too small; the least is 1s"]),
    (service("endpoints: [{address: 'a:1', weight: 70000}]"), ["f:4:42: `weight`: 70000 is out of range; write a whole number from 0 to 65,535"]),
    # services
    (service("balance: random"), ["f:3:3: service `user` has no `endpoints`; write a list of addresses; `[]` where there are none yet"]),
    (service("{endpoints: [], balanse: random}"), ["f:4:21: service `user` has no key `balanse`; did you mean `balance`?"]),
    (service("{endpoints: [], balance: rnd}"), ["f:4:30: `balance`: there is no policy `rnd`; did you mean `random`?"]),
    (service("{endpoints: [], balance: peak_ewma}"), ["f:4:30: `balance`: `peak_ewma` is not built yet; use `round_robin`, `weighted_round_robin`, `random`, `least_request`, `ring_hash` or `maglev`"]),
    (service("{endpoints: [], balance: {key: path}}"), ["f:4:31: `key` has no meaning for the policy `least_request`; write `policy: ring_hash`, or remove `key`"]),
    (service("{endpoints: [], balance: {policy: maglev, ring_size: 2048}}"), ["f:4:47: `ring_size` has no meaning for the policy `maglev`; write `policy: ring_hash`, or remove `ring_size`"]),
    (service("{endpoints: [], balance: {policy: maglev, key: {header: a, cookie: b}}}"), ["f:4:52: a hash key names one source, and this has 2; write a list of them"]),
    (service("{endpoints: [], balance: {policy: maglev, key: ip}}"), ["f:4:52: `key`: there is no hash key `ip`; write `source_ip` or `path`"]),
    (service("{endpoints: [], send_proxy: v3}"), ["f:4:33: `send_proxy`: there is no version `v3`; write `off`, `v1` or `v2`"]),
    (settings("services2: {}"), ["f:1:1: the file has no key `services2`; did you mean `services`?"]),
    (LISTENERS + "services: {'bad name': {endpoints: []}, user: {endpoints: []}}", ["f:2:12: `services`: `bad name` is not a name; letters, digits and `._/@-`, starting with a letter or a digit"]),
    # failing endpoints
    (service("{endpoints: [], retries: off}"), ["f:4:30: `retries` needs a mapping, not `off`; write `{attempts: 0}` for no retries"]),
    (service("{endpoints: [], retries: 3}"), ["f:4:30: `retries` needs a mapping, not `3`"]),
    (service("{endpoints: [], retries: {attempts: 11}}"), ["f:4:41: `attempts`: 11 is out of range; write a whole number from 0 to 10"]),
    (service("{endpoints: [], retries: {budget: 120%}}"), ["f:4:39: `budget`: `120%` is too large; the most is 100%"]),
    (service("{endpoints: [], retries: {on: [reset, conect-failure]}}"), ["f:4:43: `on`: there is no reason to retry `conect-failure`; did you mean `connect-failure`?"]),
    (service("{endpoints: [], retries: {on: [connect_failure]}}"), ["f:4:36: `on`: there is no reason to retry `connect_failure`; did you mean `connect-failure`?"]),
    (service("{endpoints: [], retries: {on: [eof]}}"), ["f:4:36: `on`: there is no reason to retry `eof`; write `connect-failure`, `reset`, `timeout`, `gateway-error` or `5xx`"]),
    (service("{endpoints: [], retries: {on: [503, 200, 600]}}"), ["f:4:41: `on`: 200 is out of range; write a whole number from 400 to 599", "f:4:46: `on`: 600 is out of range; write a whole number from 400 to 599"]),
    (service("{endpoints: [], retries: {on: ['503']}}"), ["f:4:36: `on` needs a number, and quotes make `\"503\"` text; remove the quotes"]),
    (service("{endpoints: [], retries: {on: [[503]]}}"), ["f:4:36: `on` needs a reason such as `reset`, or a status code, not a list"]),
    (service("{endpoints: [], retries: {on: }}"), ["f:4:35: `on` has no value; write a list of reasons and status codes such as `[connect-failure, reset, 503]`, or remove the key"]),
    (service("{endpoints: [], retries: {per_try: 0s}}"), ["f:4:40: `per_try`: `0s` is too small; the least is 1ms"]),
    (service("{endpoints: [], retries: {retry_unsafe: yes}}"), ["f:4:45: `retry_unsafe` needs `true` or `false`, not `yes`; `yes` is text in YAML 1.2: write `true`"]),
    (service("{endpoints: [], retries: {retries: 1}}"), ["f:4:31: `retries` has no key `retries`; the keys here are `attempts`, `budget`, `on`, `per_try` and `retry_unsafe`"]),
    (service("{endpoints: [], outlier_detection: none}"), ["f:4:40: `outlier_detection`: there is no value `none`; write `off`"]),
    (service("{endpoints: [], outlier_detection: {consecutive_5xx: 0}}"), ["f:4:58: `consecutive_5xx`: 0 is out of range; write a whole number from 1 to 1,000, or `none`"]),
    (service("{endpoints: [], outlier_detection: {consecutive_errors: 5}}"), ["f:4:41: `outlier_detection` has no key `consecutive_errors`; did you mean `consecutive_gateway_errors`?"]),
    (service("{endpoints: [], outlier_detection: {success_rate: 0%}}"), ["f:4:55: `success_rate`: `0%` is too small; the least is 1%"]),
    (service("{endpoints: [], outlier_detection: {max_ejected: none}}"), ["f:4:54: `max_ejected`: `none` is not possible here; write a percentage such as `20%`"]),
    (service("{endpoints: [], outlier_detection: {max_ejection_time: 2d}}"), ["f:4:60: `max_ejection_time`: `2d` is too large; the most is 1d"]),
    (service("{endpoints: [], outlier_detection: {interval: 1ms}}"), ["f:4:51: `interval`: `1ms` is too small; the least is 10ms"]),
    (service("{endpoints: [], outlier_detection: {max_ejection_time: 1s, base_ejection_time: 2s}}"), ["f:4:60: `max_ejection_time` (1s) is shorter than `base_ejection_time` (2s); write `2s` or more, or a shorter `base_ejection_time`"]),
    (service("{endpoints: [], outlier_detection: {base_ejection_time: 1m}}"), ["f:4:61: `base_ejection_time` (1m) is longer than `max_ejection_time` (30s); write `max_ejection_time` too, `1m` or more, or a shorter `base_ejection_time`"]),
    (settings("defaults: {outlier_detection: {max_ejection_time: 500ms}}"), ["f:1:51: `max_ejection_time` (500ms) is shorter than `base_ejection_time` (1s); write `1s` or more, or a shorter `base_ejection_time`"]),
    (service("{endpoints: [], limits: 100}"), ["f:4:29: `limits` needs a mapping, not `100`"]),
    (service("{endpoints: [], limits: {requests: 0}}"), ["f:4:40: `requests`: 0 is out of range; write a whole number from 1 to 1,000,000, or `none`"]),
    (service("{endpoints: [], limits: {queue: none}}"), ["f:4:37: `queue` needs a whole number from 0 to 1,000,000, not `none`"]),
    (service("{endpoints: [], limits: {queue_timeout: none}}"), ["f:4:45: `queue_timeout`: `none` is not possible here; write a duration such as `2s`"]),
    (service("{endpoints: [], limits: {endpoint: 10}}"), ["f:4:40: `endpoint` needs a mapping with `connections` or `requests`, not `10`"]),
    (service("{endpoints: [], limits: {body: 1MiB}}"), ["f:4:30: `limits` (of a service) has no key `body`; it belongs to the `limits` of the file, beside `listeners`: what a client may send"]),
    (service("{endpoints: [], limits: {request: 1}}"), ["f:4:30: `limits` (of a service) has no key `request`; did you mean `requests`?"]),
    (settings("limits: {requests: 10}"), ["f:1:10: `limits` (of the file) has no key `requests`; it belongs to the `limits` of a service, or of `defaults`: how much a service may be used"]),
    (settings("timeouts: {idle: 4s}"), ["f:1:1: the file has no key `timeouts`; it belongs to a service, or to `defaults`: `defaults: {timeouts: ...}`"]),
    (settings("limits: {header_size: 1KiB}"), ["f:1:10: `limits` (of the file) has no key `header_size`; did you mean `header_bytes`?"]),
    (service("{endpoints: [], slow_start: off}"), ["f:4:33: `slow_start`: `off` is not possible here; write a duration such as `2s`, or `none`"]),
    (service("{endpoints: [], slow_start: 30}"), ["f:4:33: `slow_start`: `30` has no unit; write `30s` for seconds or `30ms` for milliseconds"]),
    (service("{endpoints: [{address: 'a:1', priority: 128}]}"), ["f:4:45: `priority`: 128 is out of range; write a whole number from 0 to 127"]),
    (service("{endpoints: [{address: 'a:1', priority: -1}]}"), ["f:4:45: `priority`: -1 is out of range; write a whole number from 0 to 127"]),
    # active checks
    (settings("defaults: {health: tcp}"), ["f:1:12: `defaults` has no key `health`; the keys here are `timeouts`, `retries`, `outlier_detection`, `limits`, `slow_start`, `upstream` and `balance`"]),
    (service("{endpoints: [], health: tpc}"), ["f:4:29: `health`: `tpc` is not a path; did you mean `tcp`?"]),
    (service("{endpoints: [], health: healthz}"), ["f:4:29: `health`: `healthz` is not a path; write a path such as `/healthz`, `tcp` or `off`"]),
    (service("{endpoints: [], health: ''}"), ["f:4:29: `health`: `` is not a path; write a path such as `/healthz`, `tcp` or `off`"]),
    (service("{endpoints: [], health: [/healthz]}"), ["f:4:29: `health` needs a path such as `/healthz`, `tcp`, `off`, or a mapping, not a list"]),
    (service("{endpoints: [], health: {type: grpc}}"), ["f:4:36: `type`: there is no type `grpc`; write `http` or `tcp`"]),
    (service("{endpoints: [], health: {path: healthz}}"), ["f:4:36: `path`: `healthz` is not a path; a path starts with `/`: write `/healthz`"]),
    (service("{endpoints: [], health: {path: '/a#b'}}"), ["f:4:36: `path`: `/a#b` has a `#`; a path has no fragment"]),
    (service("{endpoints: [], health: {method: get}}"), ["f:4:38: `method`: methods are case-sensitive and `get` is not one; write `GET`"]),
    (service("{endpoints: [], health: {method: Probe}}"), ["f:4:38: `method`: `Probe` is not in upper case; methods are case-sensitive: write `PROBE`"]),
    (service("{endpoints: [], health: {method: CONNECT}}"), ["f:4:38: `method`: `CONNECT` opens a tunnel; write `GET`, or `type: tcp` to open a connection alone"]),
    (service("{endpoints: [], health: {host: 'http://a/'}}"), ["f:4:36: `host`: `http://a/` is a URL; write the host alone, such as `example.com`"]),
    (service("{endpoints: [], health: {host: 'a b'}}"), ["f:4:36: `host`: `a b` is not a host name; letters, digits and `-`, in parts joined by `.`"]),
    (service("{endpoints: [], health: {host: 'a:0'}}"), ["f:4:36: `host`: `a:0`: port 0 is out of range; a port is from 1 to 65535"]),
    (service("{endpoints: [], health: {host: '::1'}}"), ["f:4:36: `host`: `::1` is not `host:port`; an IPv6 address stands in brackets: `[::1]:8080`"]),
    (service("{endpoints: [], health: {headers: {Host: a}}}"), ["f:4:40: `headers`: `host` is a key of its own; write `host: NAME` beside `headers`"]),
    (service("{endpoints: [], health: {headers: {Connection: close}}}"), ["f:4:40: `headers`: `connection` belongs to the connection and is set as it must be; remove it"]),
    (service("{endpoints: [], health: {headers: {content-length: 0}}}"), ["f:4:40: `headers`: `content-length` belongs to the connection and is set as it must be; remove it"]),
    (service("{endpoints: [], health: {headers: {x-a: 1, X-A: 2}}}"), ["f:4:48: `headers`: `X-A` is set twice; remove one"]),
    (service("{endpoints: [], health: {headers: {x a: 1}}}"), ["f:4:40: `headers`: `x a` is not a header's name; letters, digits and `!#$%&'*+-.^_|~` are allowed"]),
    (service('{endpoints: [], health: {headers: {x-a: "1\\n2"}}}'), ["f:4:45: `x-a`: the value has a control character; remove it"]),
    (service("{endpoints: [], health: {headers: {x-a: é}}}"), ["f:4:45: `x-a`: the value has a character beyond ASCII; remove it"]),
    (service("{endpoints: [], health: {expect: 100}}"), ["f:4:38: `expect`: 100 is out of range; write a whole number from 200 to 599"]),
    (service("{endpoints: [], health: {expect: 2xx}}"), ["f:4:38: `expect`: `2xx` is no range of status codes; write two from 200 to 599, such as `200-299`"]),
    (service("{endpoints: [], health: {expect: [200, 4XX]}}"), ["f:4:44: `expect`: `4XX` is no range of status codes; write two from 200 to 599, such as `400-499`"]),
    (service("{endpoints: [], health: {expect: 399-200}}"), ["f:4:38: `expect`: the range `399-200` ends before it starts; write `200-399`"]),
    (service("{endpoints: [], health: {expect: []}}"), ["f:4:38: `expect` is an empty list; write status codes such as `200` or `[200, 300-399]`, or remove the key"]),
    (service("{endpoints: [], health: {body: ''}}"), ["f:4:36: `body`: the text is empty; write some text, or remove the key"]),
    (service("{endpoints: [], health: {body: {}}}"), ["f:4:36: `body` needs `regex`; write a regular expression"]),
    (service("{endpoints: [], health: {body: {regex: 'ok(a'}}}"), ["f:4:44: `regex`: `ok(a` is not a regular expression: missing ), unterminated subpattern at its character 3; put a `\\` before a character that stands for itself"]),
    (service("{endpoints: [], health: {body: {regex: 'a{4294967296}'}}}"), ["f:4:44: `regex`: `a{4294967296}` cannot be compiled; write a simpler regular expression"]),
    (service("{endpoints: [], health: {body: {regex: ''}}}"), ["f:4:44: `regex`: the text is empty; write some text, or remove the key"]),
    (service("{endpoints: [], health: {body: ok, method: HEAD}}"), ["f:4:30: `body` has no meaning beside `method: HEAD`, whose answer has no body; write `method: GET`, or remove `body`"]),
    (service("{endpoints: [], health: {port: 0}}"), ["f:4:36: `port`: 0 is out of range; write a whole number from 1 to 65,535"]),
    (service("{endpoints: [], health: {interval: 5ms}}"), ["f:4:40: `interval`: `5ms` is too small; the least is 10ms"]),
    (service("{endpoints: [], health: {timeout: none}}"), ["f:4:39: `timeout`: `none` is not possible here; write a duration such as `2s`"]),
    (service("{endpoints: [], health: {healthy: 0}}"), ["f:4:39: `healthy`: 0 is out of range; write a whole number from 1 to 1,000"]),
    (service("{endpoints: [], health: {panic_threshold: 0.3}}"), ["f:4:47: `panic_threshold`: `0.3` has no unit; write a percentage such as `30%`"]),
    (service("{endpoints: [], health: {type: tcp, path: /a, expect: 200, port: 1}}"), ["f:4:41: `path` has no meaning for a check of the type `tcp`; remove it, or write `type: http`", "f:4:51: `expect` has no meaning for a check of the type `tcp`; remove it, or write `type: http`"]),
    (service("{endpoints: [], health: {type: tcp, body: a, method: GET, host: a, headers: {}}}"), [f"f:4:{column}: `{name}` has no meaning for a check of the type `tcp`; remove it, or write `type: http`" for column, name in ((41, "body"), (50, "method"), (63, "host"), (72, "headers"))]),
    (service("{endpoints: [], health: {type: tpc, path: /a}}"), ["f:4:36: `type`: there is no type `tpc`; did you mean `tcp`?"]),
    # listeners and routes
    (SERVICES, ["f:1:1: the file needs `listeners`; write listeners by name, or `sidecar`"]),
    ("listeners: {}\n", ["f:1:12: `listeners` is empty; write listeners by name, or remove the key"]),
    (listener("{service: user}"), ["f:3:5: listener `web` needs `bind`; write an address such as `0.0.0.0:8080`, `:8080` or `unix:/path`, or a list of them"]),
    (listener("bind: ':1'"), ["f:2:3: listener `web` leads nowhere; write `routes:`, or `service: NAME`"]),
    (listener("{bind: ':1', protocol: tcp}"), ["f:2:3: listener `web` leads nowhere; write `service: NAME`"]),
    (listener("{bind: ':1', protocol: tcp, routes: {/: user}}"), ["f:3:33: listener `web` is TCP and cannot have `routes`; write `service: NAME`"]),
    (listener("{bind: ':1', protocol: tcp, service: user, upgrade: [h2c]}"), ["f:3:48: `upgrade` has no meaning for a TCP listener; remove it"]),
    (listener("{bind: ':1', service: user, routes: {/: user}}"), ["f:3:18: listener `web` has both `routes` and `service`; make the service the last route, without a `path`, or remove one of the two"]),
    (listener("{bind: ':1', routes: []}"), ["f:3:26: `routes` is an empty list; write a list of routes, or remove the key"]),
    (listener("{bind: ':1', service: usr}"), ["f:3:27: there is no service `usr`; did you mean `user`?"]),
    (listener("{bind: ':1', service: zzz}"), ["f:3:27: there is no service `zzz`; define it under `services`, or use `user`"]),
    (LISTENERS, ["f:1:43: there is no service `user`; there are no services yet: define it under `services`"]),
    (listener("{bind: ':1', routes: {/: user, /a: {user: 0}}}"), ["f:3:40: all weights of the split are 0; give one service a weight of 1 or more"]),
    (listener("{bind: ':1', routes: {user: user}}"), ["f:3:27: `routes`: `user` is not a path; a path starts with `/`: write `/user`"]),
    (listener("{bind: ':1', routes: {/a: user, /a/: user}}"), ["f:3:37: `routes`: `/a/` is set twice; remove one"]),
    (route("{path: /a}"), ["f:2:6: the route leads nowhere; add `service`, `redirect` or `respond`"]),
    (route("{service: user, respond: {}}"), ["f:2:22: a route has one of `service`, `redirect` and `respond`, and this has `service` and `respond`; remove one, or make two routes of it"]),
    (route("{path: /a*, service: user}"), ["f:2:13: `path`: `/a*` has a `*`; a path is a prefix already: write `/a`"]),
    (route("{path: '/a?b', service: user}"), ["f:2:13: `path`: `/a?b` has a query; routes match the path alone: write `/a`"]),
    (route("{path: '/a#b', service: user}"), ["f:2:13: `path`: `/a#b` has a `#`; a path has no fragment"]),
    (route("{path: '/a b', service: user}"), ["f:2:13: `path`: `/a b` has a character that a path cannot have; write it percent-encoded, such as `%20`"]),
    (route("{path: {exact: /a, prefix: /b}, service: user}"), ["f:2:13: `path` has one of `prefix`, `exact` and `regex`, and this has 2; keep one"]),
    (route("{path: {regex: '/v[0-9]+'}, service: user}"), ["f:2:21: `regex`: `/v[0-9]+`: paths by regular expression are not built yet; write a prefix or `{exact: /path}`"]),
    (route("{methods: [get], service: user}"), ["f:2:17: `methods`: methods are case-sensitive and `get` is not one; write `GET`"]),
    (route("{methods: [], service: user}"), ["f:2:16: `methods` is an empty list; write methods such as `[GET, POST]`, or remove the key"]),
    (route("{methods: [G T], service: user}"), ["f:2:17: `methods`: `G T` is not a method; letters, digits and `!#$%&'*+-.^_|~` are allowed"]),
    (route("{hosts: ['*'], service: user}"), ["f:2:15: `hosts`: `*` matches every host; leave `hosts` out"]),
    (route("{hosts: ['a.*.b'], service: user}"), ["f:2:15: `hosts`: `a.*.b` has a `*` in its middle; a pattern is `*.` and a name, or a name"]),
    (route("{hosts: ['a:80'], service: user}"), ["f:2:15: `hosts`: `a:80` has a port; ports are ignored: write `a`"]),
    (route("{hosts: [bücher.de], service: user}"), ["f:2:15: `hosts`: `bücher.de` has a character beyond ASCII; write the name in its `xn--` form"]),
    (route("{headers: {'x y': a}, service: user}"), ["f:2:17: `headers`: `x y` is not a header's name; letters, digits and `!#$%&'*+-.^_|~` are allowed"]),
    (route("{headers: {x: ' a'}, service: user}"), ["f:2:20: `x`: ` a` has space at an end; field values are compared without: remove it"]),
    (route("{headers: {x: a, X: b}, service: user}"), ["f:2:23: `headers`: `X` is set twice; remove one"]),
    (route("{path: {exact: /a}, rewrite: {prefix: /}, service: user}"), ["f:2:26: `rewrite` replaces a prefix, and this route's path is `exact`; match a prefix, or remove it"]),
    (route("{rewrite: {prefix: /}, respond: {}}"), ["f:2:7: `rewrite` has no meaning beside `respond`; remove it"]),
    (route("{timeout: 1s, redirect: {to: /}}"), ["f:2:7: `timeout` has no meaning beside `redirect`; remove it"]),
    (route("{redirect: {to: new}}"), ["f:2:22: `to`: `new` is neither a path nor a URL; start it with `/`, `http://` or `https://`"]),
    (route("{redirect: {to: '/a?b=c'}}"), ["f:2:22: `to`: `/a?b=c` has a query; the query of the request is kept: leave it out"]),
    (route("{redirect: {to: /, status: 304}}"), ["f:2:33: `status`: 304 is not a redirect; write 301, 302, 303, 307 or 308"]),
    (route("{redirect: {status: 301}}"), ["f:2:17: `redirect` needs `to`; write a path such as `/new`, or a URL"]),
    (route("{respond: {status: 100}}"), ["f:2:25: `status`: 100 is out of range; write a whole number from 200 to 599"]),
    (route(f"{{respond: {{body: {'x' * 65537}}}}}"), ["f:2:17: a fixed answer has at most 64KiB, this one has 65537 bytes; let a service answer it"]),
    (route("{respond: {status: 204, body: x}}"), ["f:2:30: an answer with status 204 has no body; remove `body`"]),
    # expansion
    (settings("workers: ${NOPE}"), ["f:1:10: the environment variable `NOPE` is not set; set it, or write `${NOPE:-default}`"]),
    (settings("workers: ${NOPE:?say how many}"), ["f:1:10: the environment variable `NOPE` is not set: say how many"]),
    (settings("registry: ${file:nope}"), ["f:1:11: `${file:nope}`: the file does not exist; check the path"]),
    (settings("registry: ${1x}"), ["f:1:11: `${1x}` is not a reference; write `${VAR}`, `${VAR:-default}`, `${VAR:?message}` or `${file:/path}`, or `$$` for a dollar sign"]),
    (settings("registry: 'a${b'"), ["f:1:11: `a${b`: `${` has no closing `}`; write `$$` for a dollar sign"]),
    (settings("${X}: 1"), ["f:1:1: `${X}`: variables are expanded in values, not in keys", "f:1:1: the file has no key `${X}`; the keys here are `admin`, `workers`, `registry`, `trusted_proxies`, `drain`, `ready_timeout`, `access_log`, `log`, `limits`, `defaults`, `listeners`, `sidecar` and `services`"]),
    # the registry
    (settings("registry: nope.d"), ["f:1:11: the registry folder `nope.d` does not exist; create it, or remove `registry`"]),
    (settings("registry: f"), ["f:1:11: the registry folder `f` is not a folder"]),
]  # fmt: skip


def problems_of(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The errors of a file `f` with `text`, as text."""
    monkeypatch.chdir(folder)
    Path("f").write_text(textwrap.dedent(text))
    with pytest.raises(ConfigError) as caught:
        load("f", env={})
    return [str(problem) for problem in caught.value.problems if problem.severity == "error"]


@pytest.mark.parametrize(("text", "expected"), MISTAKES, ids=[str(number) for number in range(len(MISTAKES))])
def test_mistake(text: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems_of(text, tmp_path, monkeypatch) == expected
