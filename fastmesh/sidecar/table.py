"""The nat table as iptables-save prints it, and the texts for iptables-restore that change our part of it.

A text is one transaction: `COMMIT` puts all of it in force or nothing. It is fed with `--noflush`, so that it
touches nothing but what it names.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from fastmesh.sidecar.rules import OURS, RuleSet


def chain_of(rule: str) -> str:
    return rule.split(" ", 2)[1]


def target_of(rule: str) -> tuple[str, str]:
    """The chain or target that a rule leads to, and the ports of a REDIRECT; both may be empty."""
    try:
        words = shlex.split(rule)
    except ValueError:  # quotes that are not iptables-save's
        words = rule.split()
    for place, word in enumerate(words[:-1]):
        # The text of a comment may be anything.
        if word in ("-j", "-g") and words[place - 1] != "--comment":
            ports = words[words.index("--to-ports") + 1] if "--to-ports" in words[:-1] else ""
            return words[place + 1], ports
    return "", ""


@dataclass(frozen=True, slots=True)
class Table:
    """Names of its own chains, and rules as lines ``-A CHAIN …``, in the order in which they are."""

    chains: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    @property
    def own_chains(self) -> tuple[str, ...]:
        """Ours, whatever version of fastmesh made them."""
        return tuple(chain for chain in self.chains if chain.startswith(OURS))

    @property
    def own_rules(self) -> tuple[str, ...]:
        return tuple(rule for rule in self.rules if chain_of(rule).startswith(OURS))

    @property
    def jumps(self) -> tuple[str, ...]:
        """Rules of other chains that lead into ours."""
        return tuple(
            rule
            for rule in self.rules
            if target_of(rule)[0].startswith(OURS) and not chain_of(rule).startswith(OURS)
        )


def parse(saved: str) -> Table:
    """Of what ``iptables-save -t nat`` prints; empty if there is no such table."""
    chains, rules = [], []
    for line in saved.splitlines():
        if line.startswith("-A "):
            rules.append(line)
        elif line.startswith(":"):
            name, policy = line[1:].split(" ")[:2]
            if policy == "-":  # those of the kernel have one
                chains.append(name)
    return Table(tuple(chains), tuple(rules))


def _transaction(lines: Iterable[str]) -> str:
    return "\n".join(["*nat", *lines, "COMMIT", ""])


def _delete(rule: str) -> str:
    return "-D" + rule.removeprefix("-A")


def _clear(table: Table) -> list[str]:
    """Lines that take everything of ours away."""
    own = table.own_chains
    return [*map(_delete, table.jumps), *(f"-F {chain}" for chain in own), *(f"-X {chain}" for chain in own)]


def removal(table: Table) -> str:
    """The text that takes our part away, and nothing else."""
    return _transaction(_clear(table))


def installation(table: Table, wanted: RuleSet) -> str:
    """The text that makes ``wanted`` our part of the table. Jumps that are as they should be stay where they
    are; others are made anew, behind all other rules."""
    kept = {jump for jump in wanted.jumps if table.jumps.count(jump) == 1}
    old = [chain for chain in table.own_chains if chain not in wanted.chains]
    return _transaction(
        [
            *(f":{chain} - [0:0]" for chain in wanted.chains),  # made, or emptied
            *(_delete(jump) for jump in table.jumps if jump not in kept),
            *(f"-F {chain}" for chain in old),
            *(f"-X {chain}" for chain in old),
            *wanted.rules,
            *(jump for jump in wanted.jumps if jump not in kept),
        ]
    )


def restoration(now: Table, before: Table) -> str:
    """The text that gives our part of the table back as it was ``before``, jumps in their places."""
    inserted = []
    for number, jump in enumerate(before.rules):
        if jump in before.jumps:
            earlier = [rule for rule in before.rules[:number] if chain_of(rule) == chain_of(jump)]
            rest = jump.removeprefix(f"-A {chain_of(jump)}")
            inserted.append(f"-I {chain_of(jump)} {len(earlier) + 1}{rest}")
    chains = [f":{chain} - [0:0]" for chain in before.own_chains]
    return _transaction([*_clear(now), *chains, *before.own_rules, *inserted])


def is_in_force(table: Table, wanted: RuleSet) -> bool:
    """Whether our part is ``wanted``, to the letter."""
    return (
        set(table.own_chains) == set(wanted.chains)
        and table.jumps == wanted.jumps
        and _by_chain(table.own_rules) == _by_chain(wanted.rules)
    )


def difference(table: Table, wanted: RuleSet) -> str | None:
    """What our part lacks of ``wanted``, or has beside it; None if it leads to the same. Versions of iptables
    print matches differently, so targets are what is compared."""
    for name in sorted({*table.own_chains, *wanted.chains}):
        if name not in table.own_chains:
            return f"the chain {name} is missing"
        if name not in wanted.chains:
            return f"the chain {name} is left over"
        have = [target_of(rule) for rule in table.own_rules if chain_of(rule) == name]
        want = [target_of(rule) for rule in wanted.rules if chain_of(rule) == name]
        if have != want:
            return f"the rules of the chain {name} lead to {have} instead of {want}"
    there = sorted((chain_of(jump), target_of(jump)[0]) for jump in table.jumps)
    due = sorted((chain_of(jump), target_of(jump)[0]) for jump in wanted.jumps)
    return None if there == due else f"what leads to our chains is {there} instead of {due}"


def _by_chain(rules: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rule in rules:
        found.setdefault(chain_of(rule), []).append(rule)
    return found
