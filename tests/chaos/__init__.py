"""Fault tests: endpoints are killed, slowed, cut off and spoilt under load, fastmesh itself is changed,
overloaded, beset by slow clients and drained, and what clients see is counted.

`make chaos` runs every case at its full size; `python -m tests.chaos NAME [--policy P] [--scale 0.1]` runs
one, `--list` names them. Each line of a case says what happened, the counts and whether they hold; the exit
code is 1 if one does not. Small versions of the same cases are tests in `tests/adversity`.

The parts, all real processes: `fastmesh run` with a YAML file; `id_load.c`, a closed loop that checks whose
answer it gets, `clients.c`, whose clients come and go or stay, or the open loop of the benchmarks;
slowhttptest; `toxic.c`, a proxy that spoils connections, with what it does in `toxic_plan.h`; `id_origin.c`,
nginx or the origin of the benchmarks behind it. Random choices come of one seed, which is printed: `--seed`
repeats a run as far as timing allows.
"""
