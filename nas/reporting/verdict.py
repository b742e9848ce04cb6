"""What baselines say of a search: which network to take, in a sentence, and each winner beside its baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas.objective.metrics import shown
from nas.reporting.drawing import numbers
from nas.runs.baselines import EQUAL, Accuracy, Baselines, Difference, Network
from search_spaces.command import align

KINDS = {
    "winner": "winner",
    "whole": "fine-tuned network",
    "narrowed": "narrowed network",
    "pruned": "pruned network",
}


# ---- which network to take


def verdict(found: Baselines) -> str:
    """Which network to take, by the `rule`, in one sentence; and why not the one that the search recommended."""
    network = taken(found)
    if found.whole is None or network is None:
        return "This run has no fine-tuned network that could be taken as it is: it was not begun with nas.finetune."
    why = _sentence(found, found.whole)
    if found.recommended in (None, network.name):
        return why
    return (
        f"{why} The search had recommended {found.recommended}, by inherited weights and on search images; this is "
        "after training, on test images and by measured times."
    )


def _sentence(found: Baselines, whole: Network) -> str:
    best = _best(found, whole)
    if best is None:
        return f"Take the fine-tuned network as it is: {_why(found, whole)}."
    if best.kind != "winner":
        return f"Take the {_named(best)}, no winner: it is {_beside_whole(found, best, whole)}."
    if (other := _better(found, best)) is None:
        return f"Take {best.name}: it is {_beside_whole(found, best, whole)}."
    gain = _by(found.difference(best, other), sign=-1)
    return f"Take the {_named(other)}, not {best.name}: it is as fast, and better by {gain}."


def taken(found: Baselines) -> Network | None:
    """The network that the `verdict` says to take; None where it says none."""
    whole = found.whole
    best = _best(found, whole) if whole else None
    return (_better(found, best) or best) if best else whole


def _best(found: Baselines, whole: Network) -> Network | None:
    """Of what is worth taking instead of the whole network a winner, or else a baseline."""
    worth = [network for network in found.networks if _is_worth(found, network, whole)]
    if winners := [network for network in worth if network.kind == "winner"]:
        return max(winners, key=lambda w: w.accuracy.value if found.broken_limits else -w.latency_ms)
    return min(worth, key=lambda network: network.latency_ms, default=None)


def _better(found: Baselines, best: Network) -> Network | None:
    """A baseline of a winner's time that is told to be more accurate."""
    better = [other for other in found.beside(best) if _beats(found, other, best)] if best.kind == "winner" else []
    return min(better, key=lambda network: found.difference(best, network).value, default=None)


def _named(baseline: Network) -> str:
    return f"{KINDS[baseline.kind]} {baseline.folder}"


def _why(found: Baselines, whole: Network) -> str:
    """No network is worth taking instead."""
    faster = [winner for winner in found.winners if winner.is_faster(whole)]
    if not faster:
        return "no winner is told to be faster"
    nearest = max(faster, key=lambda winner: winner.accuracy.value)
    beside = _beside_whole(found, nearest, whole)
    return f"no winner is faster without being told to {_lose(found)}; the nearest, {nearest.name}, is {beside}"


def rule(found: Baselines) -> str:
    """How the `verdict` is made, for a reader."""
    if found.broken_limits:
        beyond = ", ".join(shown(metric).name for metric in found.broken_limits)
        first = f"The fine-tuned network is beyond the search’s limit of {beyond}, so the most accurate winner is taken"
    else:
        first = (
            "Of the winners that are faster than the fine-tuned network in every session, and are not told to "
            f"{_lose(found)}, the fastest is taken (if there is none, the fastest baseline of which the same is true, "
            "else the fine-tuned network as it is)"
        )
    return (
        f"{first}, unless a baseline that is at most {100 * EQUAL:.0f} % slower is told to be more accurate. Two "
        "networks are told apart where the 95 % interval of their difference, bootstrapped over the same images, "
        "leaves out zero."
    )


def _lose(found: Baselines) -> str:
    return f"lose more than {found.max_loss:g} points" if found.max_loss else "be less accurate"


def _is_worth(found: Baselines, network: Network, whole: Network) -> bool:
    if network is whole:
        return False
    if found.broken_limits:
        return network.kind == "winner"
    return network.is_faster(whole) and 100 * found.difference(network, whole).high >= -found.max_loss


def _beats(found: Baselines, other: Network, winner: Network) -> bool:
    if found.broken_limits and other is found.whole:
        return False
    return other.latency_ms <= (1 + EQUAL) * winner.latency_ms and _told(found, winner, other) < 0


def _told(found: Baselines, network: Network, other: Network) -> int:
    """1 where the network is told to be more accurate, -1 where it is told to be less, else 0."""
    difference = found.difference(network, other)
    return int(difference.low > 0) - int(difference.high < 0)


# ---- each winner


def sentences(found: Baselines) -> Iterator[str]:
    """One for each winner, and one for each baseline that there is not."""
    for winner in found.winners:
        parts = [_beside_whole(found, winner, found.whole)] if found.whole else []
        if others := [_beside(found, winner, o) for o in found.beside(winner) if o is not found.whole]:
            parts.append(" and ".join(others))
        if parts:
            yield f"{winner.name} is {'; it is '.join(parts)}."
    yield from (f"{name} is missing: {reason}." for name, reason in found.missing.items())


def _beside_whole(found: Baselines, network: Network, whole: Network) -> str:
    times = f"{whole.latency_ms / network.latency_ms:.2f}x"
    faster = f"{times} faster than" if network.is_faster(whole) else f"not told to be faster ({times}) than"
    difference = found.difference(network, whole)
    changes = {
        1: f"gains {_by(difference)}",
        0: f"is not told apart from it in accuracy ({_plainly(difference)})",
        -1: f"loses {_by(difference, sign=-1)}",
    }
    return f"{faster} the {KINDS['whole']} and {changes[_told(found, network, whole)]}"


def _beside(found: Baselines, winner: Network, other: Network) -> str:
    difference, name = found.difference(winner, other), KINDS[other.kind]
    standings = {
        1: f"better than the {name} by {_by(difference)}",
        0: f"not told apart from the {name} ({_plainly(difference)})",
        -1: f"worse than the {name} by {_by(difference, sign=-1)}",
    }
    return standings[_told(found, winner, other)]


def _by(difference: Difference, sign: int = 1) -> str:
    """'1.1 points (95 %: 0.3 to 1.9)'; of a loss with sign -1."""
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{100 * sign * difference.value:.1f} points (95 %: {100 * low:.1f} to {100 * high:.1f})"


def _plainly(difference: Difference) -> str:
    """'-0.2 points, 95 %: -1.1 to 0.7'."""
    return f"{100 * difference.value:.1f} points, 95 %: {100 * difference.low:.1f} to {100 * difference.high:.1f}"


# ---- the table

HEAD = (
    "Winner",
    "Network",
    "Test accuracy\n95 % interval",
    "Winner’s lead\npoints, 95 % interval",
    "Latency, ms\nmeasured",
    "Time\nof the winner’s",
    "Parameters\nmillions",
    "MACs\nmillions",
)


def rows(found: Baselines) -> list[list[str]]:
    """The winners, each before its baselines, under `HEAD`; a line break is before an interval."""
    pairs = [(winner, network) for winner in found.winners for network in (winner, *found.beside(winner))]
    networks = [network for _, network in pairs]
    columns = (
        [winner.name if winner is network else "" for winner, network in pairs],
        [KINDS[network.kind] for network in networks],
        [_accuracy(network.accuracy) for network in networks],
        ["–" if network is winner else _lead(found.difference(winner, network)) for winner, network in pairs],
        [_times(network) for network in networks],
        [f"{100 * network.latency_ms / winner.latency_ms:.0f} %" for winner, network in pairs],
        numbers([network.num_params / 1e6 for network in networks]),
        numbers([network.macs / 1e6 for network in networks]),
    )
    return [list(row) for row in zip(*columns, strict=True)]


def _accuracy(found: Accuracy) -> str:
    return f"{100 * found.value:.2f} %\n({100 * found.low:.1f}–{100 * found.high:.1f})"


def _lead(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f}\n({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def _times(network: Network) -> str:
    return f"{network.latency_ms:.3f}\n({min(network.sessions_ms):.3f}–{max(network.sessions_ms):.3f})"


def as_text(found: Baselines, warnings: Sequence[str]) -> str:
    """The table, the sentences, the warnings and the verdict."""
    heads = [head.replace("\n", ", ") for head in HEAD]
    body = [[cell.replace("\n", " ") for cell in row] for row in rows(found)]
    lines = [align([heads, *body], "<<" + ">" * (len(heads) - 2)), *sentences(found)]
    return "\n".join([*lines, *warnings, verdict(found)])
