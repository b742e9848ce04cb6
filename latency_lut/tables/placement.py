"""Which units of a device run the operators: those of a network alone, and those of its blocks, measured apart.

A small graph can land on another unit than the network that it is part of; then the sum of blocks is no time of the
network. Shares are as `Session.devices`: by unit, adding up to 1, empty where the runtime does not tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Shares = Mapping[str, float]
CPU = "cpu"  # the unit that needs no mention where it is the only one
MAX_DIFFERENCE = 0.2  # of a unit's share; shares count operators or their cost, sums of blocks weigh by time


def mean_shares(weighted: Iterable[tuple[Shares, float]]) -> dict[str, float]:
    """The mean of shares by their weights; those that are not known do not count."""
    known = [(shares, weight) for shares, weight in weighted if shares and weight > 0]
    units = dict.fromkeys(unit for shares, _ in known for unit in shares)
    total = sum(weight for _, weight in known)
    return {unit: sum(weight * shares.get(unit, 0.0) for shares, weight in known) / total for unit in units}


def of_row(terms: Shares, graphs: Mapping[str, Shares]) -> dict[str, float]:
    """Of a block, the mean over the graphs that its row adds; those that it subtracts hold it not, or fewer of it."""
    return mean_shares((graphs.get(name, {}), 1.0) for name, weight in terms.items() if weight > 0)


def of_blocks(rows: Iterable[tuple[Shares, float]], graphs: Mapping[str, Shares]) -> dict[str, float]:
    """What a network's blocks let expect of it, each weighted by its time.

    Args:
        rows: terms and ms of each block.
        graphs: shares of each measured graph.
    """
    return mean_shares((of_row(terms, graphs), ms) for terms, ms in rows)


def shares_text(shares: Shares) -> str:
    """'ne', or 'ne 83%, cpu 17%' where there are several; '-' where it is not known."""
    held = sorted(((share, name) for name, share in shares.items() if share >= 0.005), reverse=True)
    if len(held) == 1:
        return held[0][1]
    return ", ".join(f"{name} {share:.0%}" for share, name in held) or "-"


def misplaced(networks: Sequence[tuple[Shares, Shares]]) -> list[str]:
    """A warning if networks run elsewhere than their blocks, else nothing.

    Args:
        networks: of each, what its blocks let expect, and its own shares.
    """
    differing = [pair for pair in networks if _difference(*pair) > MAX_DIFFERENCE]
    if not differing:
        return []
    expected, own = max(differing, key=lambda pair: _difference(*pair))
    where = f"one: {shares_text(own)}, its blocks: {shares_text(expected)}"
    many = f"{len(differing)} of {len(networks)} whole networks"
    return [f"WARNING: {many} run elsewhere than their blocks ({where}); trust sums only as far as a validation says"]


def _difference(one: Shares, other: Shares) -> float:
    """The largest of any unit's share; 0 where either is not known."""
    if not one or not other:
        return 0.0
    return max(abs(one.get(unit, 0.0) - other.get(unit, 0.0)) for unit in {**one, **other})
