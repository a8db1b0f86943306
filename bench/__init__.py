"""Benchmarks of fastmesh beside the proxies that a user would pick instead.

`python -m bench` is the whole suite, `bench.quick` the short one, `bench.endurance` the long run. Besides,
`bench.instructions` counts instructions, `bench.sensitivity` proves that a slower fastmesh is seen,
`bench.profile` shows where a request's time goes, `bench.compare` sets two results side by side, and
`bench.page` puts one into docs/benchmarks.md. The parts:

* `contenders`   what is measured: how each proxy is configured, started, reloaded, drained
* `scenarios`    the work: listener, path, connections, length and number of rounds
* `measure`      interleaved rounds of closed-loop load, and what one round of one contender cost
* `latency`      interleaved rounds at a constant rate
* `faults`       what clients see when an endpoint dies or fails, a configuration changes, a proxy drains
* `gauges`, `changes`, `publish`, `micro_pick`   what is read once: calls, memory, changes, picks
* `suite`        steps and options of the two suites
* `rows`         what is claimed: the budget table, computed from the measurements
* `report`, `pictures`, `page`   tables and JSON (`schema.json`), SVG, the published page
* `harness`      processes, clocks, load generators, origin, strace, ports: nothing there knows a contender
"""
