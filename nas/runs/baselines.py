"""`baselines/result.json` of a run: its retrained winners beside what would have been picked without a search.

Written by nas.baselines, shown by nas.report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar

from nas.runs.folders import WEIGHTS, WHOLE
from search_spaces.command.files import sha256, write_json
from search_spaces.command.folders import Name
from search_spaces.command.typed import Amount, Count, Fraction, Positive, Within, load_typed

FILE = "baselines/result.json"
ARCHS = "baselines/archs.json"  # narrowed networks, for nas.retrain to go on with
Kind = Literal["winner", "whole", "narrowed", "pruned"]
EQUAL = 0.05  # of a time: what counts as equally fast


@dataclass(frozen=True)
class Accuracy:
    """A fraction of the test images, and the ends of its 95 % interval."""

    value: Fraction
    low: Fraction
    high: Fraction


@dataclass(frozen=True)
class Network:
    """A network that was trained, tested and timed.

    Args:
        winner: whose baseline it is; a winner's is its own name, that of the whole network empty: it is all winners'.
        folder: in the run, that has its weights.
        sessions_ms: the fastest run of each session that timed it.
        mes: by the search's objective and tables; of a pruned network, which no table knows, by its measured time over
            that of its winner, None where the objective has a metric that is not known of it.
        weights_sha256: of the file of its weights; None in comparisons of before this was recorded.
    """

    name: Name
    kind: Kind
    winner: str
    folder: str
    accuracy: Accuracy
    sessions_ms: tuple[Positive, ...]
    num_params: Count
    macs: Count
    mes: Positive | None
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        """ValueError if no session has timed it, or it is of no winner though it is not the whole network."""
        if not self.sessions_ms:
            raise ValueError(f"{self.name} has no sessions_ms")
        if (self.kind == WHOLE) is not (self.winner == ""):
            raise ValueError(f"{self.name} is {self.kind} and its winner {self.winner!r:.80}")

    @property
    def latency_ms(self) -> float:
        """The mean of the sessions."""
        return sum(self.sessions_ms) / len(self.sessions_ms)

    def is_faster(self, other: Network) -> bool:
        """Whether its slowest session is faster than the other's fastest."""
        return max(self.sessions_ms) < min(other.sessions_ms)


@dataclass(frozen=True)
class Difference:
    """Accuracy of a network less that of another, on the same images: a fraction, its 95 % interval, paired."""

    network: str
    other: str
    value: Annotated[float, Within(-1, 1)]
    low: Annotated[float, Within(-1, 1)]
    high: Annotated[float, Within(-1, 1)]


class Named(Protocol):
    """What is compared."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def winner(self) -> str: ...


AnyNamed = TypeVar("AnyNamed", bound=Named)


def pairs(networks: Sequence[AnyNamed]) -> Iterator[tuple[AnyNamed, AnyNamed]]:
    """Whose accuracies are compared: each network's with the whole one's, each winner's with its baselines'."""
    for one in networks:
        for other in networks:
            is_baseline = one.kind == "winner" and other.kind != "winner" and other.winner == one.name
            if is_baseline or (one.kind != WHOLE and other.kind == WHOLE):
                yield one, other


@dataclass(frozen=True)
class Baselines:
    """
    Args:
        search: whose winners they are.
        metric: latency of the search in which networks were made equal.
        num_images: of the test split.
        max_loss: points of accuracy that may be lost for speed.
        broken_limits: metrics in which the whole network is beyond the limits of the search.
        runtime: that timed all networks together.
        warnings: why these times, or accuracies, deserve less trust.
        missing: baselines that there cannot be, and why.
        recommended: the winner that the search has recommended, by what it knew; None if it has none.
    """

    command: str
    search: str
    metric: str
    num_images: Count
    max_loss: Amount
    broken_limits: tuple[str, ...]
    runtime: str
    warnings: tuple[str, ...]
    networks: tuple[Network, ...]
    differences: tuple[Difference, ...]
    missing: dict[str, str]
    recommended: Name | None = None

    def __post_init__(self) -> None:
        """ValueError unless all that is compared has its difference."""
        names = [network.name for network in self.networks]
        if len(set(names)) < len(names):
            raise ValueError(f"networks has a name twice: {', '.join(names)}")
        told = {(d.network, d.other) for d in self.differences}
        wanted = {(one.name, other.name) for one, other in pairs(self.networks)}
        if wrong := sorted(told ^ wanted):
            raise ValueError("differences are not those of the networks: {} and {}".format(*wrong[0]))

    @property
    def winners(self) -> list[Network]:
        return [network for network in self.networks if network.kind == "winner"]

    @property
    def whole(self) -> Network | None:
        """The fine-tuned network; None where the run has none."""
        return next((network for network in self.networks if network.kind == WHOLE), None)

    def beside(self, winner: Network) -> list[Network]:
        """The baselines of a winner."""
        return [other for one, other in pairs(self.networks) if one is winner]

    def outdated(self, run_folder: Path) -> list[str]:
        """Names of the networks that have other weights today, or none any more."""
        known = ((n, run_folder / n.folder / WEIGHTS) for n in self.networks if n.weights_sha256)
        return [n.name for n, file in known if not file.exists() or sha256(file) != n.weights_sha256]

    def difference(self, network: Network, other: Network) -> Difference:
        """Of two networks of `pairs`."""
        return self._differences[network.name, other.name]

    @cached_property
    def _differences(self) -> dict[tuple[str, str], Difference]:
        return {(d.network, d.other): d for d in self.differences}

    def write(self, run_folder: Path) -> Path:
        """Writes the run's file and returns its path."""
        path = run_folder / FILE
        write_json(path, asdict(self))
        return path


def read_baselines(run_folder: Path) -> Baselines | None:
    """Those of the run; None if there are none. UserError if they cannot be read."""
    path = run_folder / FILE
    return load_typed(Baselines, path, "remove it, and run nas.baselines again") if path.exists() else None
