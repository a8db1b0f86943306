"""Benchmarks of fastmesh beside the proxies that a user would pick instead.

`python -m bench.quick` is the short suite, `bench.endurance` the long run, `bench.profile` shows where a
request's time goes, `bench.compare` sets two results side by side. The parts:

* `contenders`   what is measured: how each proxy is configured, started and asked for its version
* `scenarios`    the work: listener, path, connections, length and number of rounds
* `measure`      interleaved rounds, and what one round of one contender cost
* `rows`         what is claimed: the budget table, computed from the measurements
* `report`       table and JSON (`schema.json`)
* `harness`      processes, clocks, wrk, strace, ports: nothing there knows a contender
"""
