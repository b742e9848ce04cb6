"""Networks of several families that were tested and timed together, and which of them is best within which time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from nas.proving.answers import difference_of
from nas.runs.baselines import EQUAL, Accuracy, Difference


@dataclass(frozen=True)
class Network:
    """A retrained network of a run.

    Args:
        family: the run's space, with the run where several are of one space.
        sessions_ms: the fastest run of each session that timed it.
    """

    family: str
    run: str
    name: str
    image_size: int
    accuracy: Accuracy
    sessions_ms: tuple[float, ...]
    num_params: int
    macs: int

    @property
    def key(self) -> str:
        return f"{self.family} {self.name}"

    @property
    def latency_ms(self) -> float:
        """The mean of the sessions."""
        return sum(self.sessions_ms) / len(self.sessions_ms)


@dataclass(frozen=True)
class Reign:
    """From this time on, until the next reign, no family has a more accurate network within the time.

    Args:
        network: the family's most accurate one until then.
        rivals: its accuracy less that of the best network of each other family that takes at most 5 % longer.
    """

    from_ms: float
    network: str
    family: str
    rivals: tuple[Difference, ...]


@dataclass(frozen=True)
class Families:
    """What is shown, by ascending latency."""

    command: str
    runtime: str
    warnings: tuple[str, ...]
    num_images: int
    networks: tuple[Network, ...]
    reigns: tuple[Reign, ...]


def reigns(networks: Sequence[Network], right: Sequence[np.ndarray]) -> Iterator[Reign]:
    """The families in the order of their reigns: who has the most accurate network within a time that grows.

    Args:
        networks: by ascending latency.
        right: (images,) of each, whether it is right.
    """
    front = [i for i, n in enumerate(networks) if all(n.accuracy.value > f.accuracy.value for f in networks[:i])]
    starts = [next(members) for _, members in groupby(front, key=lambda i: networks[i].family)]
    for i, start in enumerate(starts):
        end = starts[i + 1] if i + 1 < len(starts) else len(networks)
        best = max((j for j in front if start <= j < end), key=lambda j: networks[j].accuracy.value)
        others = [_rival(networks, best, family) for family in dict.fromkeys(n.family for n in networks)]
        differences = tuple(
            difference_of(networks[best].key, networks[j].key, right[best], right[j]) for j in others if j is not None
        )
        yield Reign(networks[start].latency_ms, networks[best].name, networks[best].family, differences)


def _rival(networks: Sequence[Network], best: int, family: str) -> int | None:
    """The most accurate network of another family that takes about as long as this one, at most; None if none does."""
    limit_ms = (1 + EQUAL) * networks[best].latency_ms
    known = [i for i, n in enumerate(networks) if n.family == family and n.latency_ms <= limit_ms]
    return max(known, key=lambda i: networks[i].accuracy.value) if known and family != networks[best].family else None
