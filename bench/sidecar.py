"""`python -m bench.sidecar`: what a hop through a sidecar costs, beside Envoy in the same place.

A client at a constant rate (half of what the slower of the two can do) calls the origin: straight, through
fastmesh with the three lines of a `sidecar:` configuration, and through Envoy. The latency that a hop adds is
that of the same rate through it less that straight to the origin, each the median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from bench.contenders import CONTENDERS, Command, Contender, Job
from bench.contenders.contender import put
from bench.gauges import idle_memory
from bench.latency import QUANTILES, LatencyOutcome, estimate_latency, run_latency
from bench.measure import Bench, estimate, run_scenario
from bench.progress import Progress
from bench.scenarios import SMALL, LatencyScenario
from bench.session import exit_code_of, open_session
from bench.suite import at_least_one

NAMES = ("direct", "fastmesh", "envoy")
_SHARE = 0.5
# The application's side of a sidecar: one dependency, called at an address of this machine.
_CONFIGURATION = """\
admin: 127.0.0.1:{admin}
workers: 1
log: {{level: warning}}
sidecar:
  outbound:
    origin: {{to: [{origins}], listen: "127.0.0.1:{http}"}}
    relayed: {{to: [{origins}], listen: "127.0.0.1:{tcp}", protocol: tcp}}
"""


def sidecar(contender: Contender) -> Contender:
    """fastmesh with the configuration of a sidecar."""

    def command(job: Job) -> Command:
        usual = contender.command(job)
        origins = ", ".join(f'"127.0.0.1:{port}"' for port in job.origin_ports)
        text = _CONFIGURATION.format(
            admin=job.admin_port, http=job.http_port, tcp=job.tcp_port, origins=origins
        )
        put(job.folder / "fastmesh.yaml", text)
        return usual

    return replace(contender, command=command)


def measure(bench: Bench, rounds: int, progress: Progress) -> LatencyOutcome:
    proxies = [name for name in NAMES if name != "direct"]
    capacity = replace(SMALL, contenders=tuple(proxies), rounds=3, seconds=1)
    scenario = LatencyScenario("sidecar", "a hop through a sidecar", NAMES, rounds, _SHARE)
    progress.expect(estimate(bench, capacity) + estimate_latency(bench, scenario))
    return run_latency(bench, scenario, run_scenario(bench, capacity, progress), progress)


def table(outcome: LatencyOutcome, resident: dict[str, float]) -> str:
    """Latency and what a hop adds to it in µs, CPU a request in µs, resident memory when idle in MiB."""
    base = outcome.quantiles("direct")
    heads = [f"p{percent:g} µs" for percent in QUANTILES]
    lines = [
        f"{outcome.rate:,} requests a second over {outcome.scenario.connections} connections",
        "| | "
        + " | ".join([*heads, *(f"adds at p{percent:g}" for percent in QUANTILES)])
        + " | CPU µs | MiB |",
        "|---|" + "---:|" * (2 * len(QUANTILES) + 2),
    ]
    for name in NAMES:
        if error := outcome.error(name):
            lines.append(f"| {name} | {error} |")
            continue
        found = outcome.quantiles(name)
        values = {percent: float(str(found[f"{percent:g}"]["value"])) for percent in QUANTILES}
        less = {percent: float(str(base[f"{percent:g}"]["value"])) for percent in QUANTILES}
        cpu = outcome.summary(name)["cpu_us_per_request"]
        cells = [f"{value:,.0f}" for value in values.values()]
        cells += [
            f"{values[percent] - less[percent]:,.0f}" if name != "direct" else "" for percent in QUANTILES
        ]
        cells += [f"{cpu:.1f}" if isinstance(cpu, float) and name != "direct" else ""]
        cells += [f"{resident[name]:.1f}" if name in resident else ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sidecar", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=at_least_one, default=9, help="rounds of each (default %(default)s)")
    options = parser.parse_args(arguments)
    chosen = {name: CONTENDERS[name] for name in NAMES}
    chosen["fastmesh"] = sidecar(chosen["fastmesh"])
    with open_session(chosen) as session:
        progress = Progress()
        outcome = measure(session.bench, options.rounds, progress)
        resident = {
            name: idle_memory(session.bench, name).resident / (1 << 20) for name in NAMES if name != "direct"
        }
        progress.end()
    print(table(outcome, resident))
    versions = ", ".join(f"{name}: {version}" for name, version in session.versions.items())
    print(versions)
    return 1 if any(outcome.error(name) for name in NAMES) else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
