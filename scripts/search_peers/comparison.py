"""Winners and what was made in their place, timed in one run and tested on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nas import runs
from nas.data import Images
from nas.evaluation.accuracy import right_answers
from nas.proving.answers import BUSY, accuracy_of, difference_of
from nas.proving.search import Search
from nas.pruning.latency import jobs_of, measure_twice
from nas.runs.baselines import Accuracy, Difference
from search_spaces.command import align
from search_spaces.deployed import deployed
from search_spaces.structure.fvcore_macs import fvcore_macs


@dataclass(frozen=True, eq=False)
class Made:
    """A network that is trained.

    Args:
        winner: that it is as fast as; its own name if it is one, empty of the fine-tuned network.
        method: that made it.
        epochs: of its last training.
    """

    winner: str
    method: str
    model: nn.Module
    epochs: int


@dataclass(frozen=True)
class Network:
    """What is known of a `Made`; `sessions_ms` is the fastest run of each session."""

    name: str
    winner: str
    method: str
    epochs: int
    num_params: int
    macs: int
    sessions_ms: tuple[float, ...]
    accuracy: Accuracy

    @property
    def latency_ms(self) -> float:
        return sum(self.sessions_ms) / len(self.sessions_ms)


@dataclass(frozen=True)
class Result:
    """`bench-peers/result.json`.

    Args:
        differences: the accuracy of each winner less that of each network made in its place.
        failed: what could not be made, and why.
    """

    command: str
    search: str
    runtime: str
    busy: bool
    num_images: int
    networks: tuple[Network, ...]
    differences: tuple[Difference, ...]
    failed: dict[str, str]


def compare(made: Mapping[str, Made], search: Search, images: Images, samples: int, failed: dict[str, str]) -> Result:
    """
    Args:
        made: networks by name, winners by their own.
        images: of the test split.
        samples: undisturbed ones of each network that is timed.
    """
    size, models = search.space.image_size, {name: deployed(one.model) for name, one in made.items()}
    times, busy = measure_twice(jobs_of(models, size), search.backend, samples)
    answers = right_answers(list(models.values()), images, size, torch.device("cpu"))
    right = dict(zip(models, answers, strict=True))
    pairs = [(one.winner, name) for name, one in made.items() if one.winner not in ("", name)]
    return Result(
        command=runs.command_line(),
        search=search.name,
        runtime=str(search.backend.describe()),
        busy=busy,
        num_images=answers.shape[1],
        networks=tuple(_network(name, made[name], models[name], size, times[name], right[name]) for name in made),
        differences=tuple(difference_of(a, b, right[a], right[b]) for a, b in pairs),
        failed=failed,
    )


def _network(
    name: str, made: Made, model: nn.Module, size: int, sessions_ms: tuple[float, ...], right: np.ndarray
) -> Network:
    num_params, macs = sum(p.numel() for p in model.parameters()), count_macs(model, size)
    return Network(name, made.winner, made.method, made.epochs, num_params, macs, sessions_ms, accuracy_of(right))


def count_macs(model: nn.Module, image_size: int) -> int:
    """Of the deployed network."""
    return fvcore_macs(deployed(model), torch.zeros(1, 3, image_size, image_size))


def as_text(result: Result) -> str:
    """A line for each network, those as fast as a winner below it."""
    gains = {difference.other: difference for difference in result.differences}
    head = ["", "ms", "M MACs", "K params", "epochs", "accuracy %", "winner - this, points"]
    rows = [_row(network, gains.get(network.name)) for network in sorted(result.networks, key=_place)]
    lines = [f"{result.num_images} test images; {result.runtime}", align([head, *rows], "<>>>>>>")]
    if result.busy:
        lines.append(BUSY)
    return "\n".join([*lines, *(f"{name}: {why}" for name, why in result.failed.items())])


def _place(network: Network) -> tuple[str, bool, str]:
    return network.winner, network.winner != network.name, network.method


def _row(network: Network, gain: Difference | None) -> list[str]:
    accuracy = network.accuracy
    return [
        network.name,
        f"{network.latency_ms:.3f}",
        f"{network.macs / 1e6:.2f}",
        f"{network.num_params / 1e3:.0f}",
        str(network.epochs),
        f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]",
        f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]" if gain else "",
    ]
