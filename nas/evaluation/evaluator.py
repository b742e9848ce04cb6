"""Accuracy of many archs with the weights of one supernet, on the search split: what a `Judge` makes of their answers.

A frontier action leaves all blocks before the one it touches as they are, so each batch runs once through the
current network, and each action runs only its own suffix from there. The blocks and their inputs are those that
evaluating the action alone would use, so the logits, and the accuracies, are the same bit for bit.

The same holds for recalibrating norms: while running statistics are measured nothing depends on them, so those of the
prefix are the current network's, and each action measures only its own suffix, from the current network's activations.

A race (`racing`) sees the images in another order and in smaller batches, which may change the last bits of logits
but hardly an accuracy. As recalibrating costs more than evaluating, there is a rough race before it: statistics of one
batch, corrected by what all batches change for the current network, are nearly those of all.

In int8 (`quantized`) each network has ranges of its own, found in floating point once its norms are known. Those of a
prefix do not depend on what follows either, so all of this holds, but for the rough race: how far ranges by rough
statistics err is not known, so there is none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.weak import WeakTensorKeyDictionary

from nas.data.batches import normalize
from nas.evaluation.forwards import first_difference
from nas.evaluation.judge import Judge
from nas.evaluation.quantized import Quantized, as_deployed
from nas.evaluation.racing import Finish, Outcomes, Race, joined
from nas.objective.precisions import Precision
from search_spaces import Arch, BlockSpec
from supernet import Supernet, measure_statistics

ROUGH_ACTIONS, ROUGH_IMAGES = 5, 256  # with fewer, a rough race costs more than it saves

Activations = TypeVar("Activations")
Part = tuple[BlockSpec, nn.Module]
Candidate = tuple[Arch, Precision]
Key = tuple[str, str, str]  # kind and name of a block, path of a norm in it
Statistics = dict[Key, tuple[Tensor, Tensor]]  # running means and variances


class Evaluator:
    """
    Args:
        supernet: in evaluation mode, on the device to use.
        judge: has the images, and knows what networks are to answer.
        calibration: normalized images, in batches, on which each network's norms are recalibrated before it is
            evaluated; none: the norms are the supernet's.
        range_images: likewise, those on which int8 finds the ranges of each network's activations.
    """

    def __init__(
        self,
        supernet: Supernet,
        judge: Judge[Any],
        batch_size: int = 256,
        calibration: Sequence[Tensor] = (),
        range_images: Sequence[Tensor] = (),
    ) -> None:
        self.supernet, self.judge = supernet, judge
        self.space = supernet.space
        self.num_images, self.batch_size = len(judge.images), batch_size
        self.calibration, self.range_images = list(calibration), list(range_images)
        self.num_calibration_images = sum(map(len, calibration))
        self.block_forwards = 0  # blocks run, times images: what sharing the prefix saves
        self._modules: dict[BlockSpec, nn.Module] = {}
        self._finished: dict[Candidate, _Finished] = {}  # by the last call
        self._scores: dict[Candidate, np.ndarray] = {}  # by all calls

    def accuracy(self, arch: Arch, precision: Precision = "float32") -> float:
        """A fraction."""
        return self.accuracies(arch, [arch], precision)[0]

    def accuracies(self, base: Arch, archs: Sequence[Arch], precision: Precision = "float32") -> list[float]:
        """Accuracy of each arch; what it shares with `base` from the input on runs once for all."""
        self._evaluate(base, archs, precision)
        return [self.judge.accuracy(self._finished[arch, precision].answers) for arch in archs]

    def scores(self, archs: Sequence[Arch], precision: Precision = "float32") -> np.ndarray:
        """(archs, parts) what each part of the images says of each accuracy; those known from before are not run
        again."""
        for arch in archs:
            if (candidate := (arch, precision)) not in self._scores:
                self._evaluate(arch, [arch], precision)
                self._scores[candidate] = self.judge.scores(self._finished[candidate].answers)
        return np.stack([self._scores[arch, precision] for arch in archs])

    @torch.inference_mode()
    def _evaluate(self, base: Arch, archs: Sequence[Arch], precision: Precision) -> None:
        frontier = self._frontier(base, archs)
        self._calibrate(frontier)
        running = self._as_run(frontier, precision)
        found: list[list[Any]] = [[] for _ in archs]
        for positions in torch.arange(self.num_images).split(self.batch_size):
            for i, answers in self._answers(running, positions):
                found[i].append(answers)
        join = self.judge.joined
        self._finish({(a, precision): self._finished_as(frontier, i, join(found[i])) for i, a in enumerate(archs)})

    @torch.inference_mode()
    def race(
        self, base: Arch, archs: Sequence[Arch], gains: Sequence[float], precision: Precision = "float32"
    ) -> list[Finish]:
        """How each arch ends; the action that loses least accuracy per gain has seen all images, but for `DELTA`.

        Of networks that classify.
        """
        if (base, precision) not in self._finished:
            self._evaluate(base, [base], precision)
        before = self._finished[base, precision]
        outcomes: Outcomes = before.answers
        order = np.argsort(np.abs(outcomes.margins), kind="stable")
        enough = len(archs) >= ROUGH_ACTIONS and self.num_images >= ROUGH_IMAGES
        rough = enough and len(self.calibration) > 1 and precision != "int8"
        race = Race(outcomes[order], gains, rough)
        frontier = self._frontier(base, [*archs, base] if rough else archs)
        found: dict[int, list[Outcomes]] = {}
        if rough:
            self._calibrate_roughly(frontier, before.statistics)
            self._run_race(race, frontier, order)
            race.lead()
            found = self._calibrate_and_run(race, frontier, order, precision)
            race.follow()
        found |= self._calibrate_and_run(race, frontier, order, precision)
        finishes, back = race.finishes(), np.argsort(order)
        ends = [(i, arch) for i, (arch, finish) in enumerate(zip(archs, finishes, strict=True)) if not finish.dropped]
        self._finish({(a, precision): self._finished_as(frontier, i, joined(found[i])[back]) for i, a in ends})
        return finishes

    def _calibrate_and_run(
        self, race: Race, frontier: _Frontier, order: np.ndarray, precision: Precision
    ) -> dict[int, list[Outcomes]]:
        if not race.running:
            return {}
        frontier.keep(race.running)
        self._calibrate(frontier)
        return self._run_race(race, self._as_run(frontier, precision), order)

    def _run_race(self, race: Race, frontier: _Frontier, order: np.ndarray) -> dict[int, list[Outcomes]]:
        """What each action found, in this order."""
        found: dict[int, list[Outcomes]] = {i: [] for i in race.running}
        while images := race.ahead():
            frontier.keep(race.running)
            for positions in torch.from_numpy(order[images]).split(self.batch_size):
                for i, outcomes in self._answers(frontier, positions):
                    race.see(i, outcomes)
                    found[i].append(outcomes)
            race.drop()
        return found

    def _frontier(self, base: Arch, archs: Sequence[Arch]) -> _Frontier:
        trunk, blocks = self.space.lower(base), [self.space.lower(arch) for arch in archs]
        starts = [first_difference(trunk, each) for each in blocks]
        trunk = trunk[: max(starts)]
        suffixes = [each[start:] for each, start in zip(blocks, starts, strict=True)]
        self._keep({*trunk, *(block for suffix in suffixes for block in suffix)})
        own = _with_own_buffers if self.calibration else lambda module: module
        parts = [[(block, own(self._modules[block])) for block in suffix] for suffix in suffixes]
        return _Frontier([(block, self._modules[block]) for block in trunk], starts, parts)

    def _calibrate(self, frontier: _Frontier) -> None:
        if self.calibration:
            for _ in frontier.to_last_norms().outputs(self._measure, self.calibration):
                pass

    def _as_run(self, frontier: _Frontier, precision: Precision) -> _Frontier:
        """The networks in that precision; `float16` answers as float32."""
        if precision != "int8":
            return frontier
        grids, shipped = WeakTensorKeyDictionary(), dict[int, nn.Module]()

        def in_int8(part: Part) -> Part:
            block, module = part
            if id(module) not in shipped:
                shipped[id(module)] = as_deployed(module, self.supernet.device)
            return block, Quantized(shipped[id(module)], grids)

        running = frontier.of_parts(in_int8)
        for _ in running.outputs(self._observe, self.range_images):
            pass
        return running

    def _calibrate_roughly(self, frontier: _Frontier, statistics: Statistics) -> None:
        """Measures on the first batch, and corrects by what the other batches, in `statistics`, are known to change.

        They are of the base, which is the frontier's last network. A slimmed norm shares its first channels.
        """
        for _ in frontier.to_last_norms().outputs(self._measure, self.calibration[:1]):
            pass
        first = _statistics(frontier.trunk)
        for parts in (frontier.trunk, *frontier.suffixes):
            for key, (mean, var) in _live_statistics(parts).items():
                if key in first:
                    (of_first, var_of_first), (of_all, var_of_all) = first[key], statistics[key]
                    mean += (of_all - of_first)[: len(mean)]
                    var *= (var_of_all / var_of_first.clamp_min(1e-12))[: len(var)]

    def _answers(self, frontier: _Frontier, positions: Tensor) -> Iterator[tuple[int, Any]]:
        """(number, answers) of each network to the images at these positions."""
        x = normalize(self.judge.images[positions], self.supernet.device, self.judge.normalization)
        for i, outputs in frontier.outputs(self._run, x):
            yield i, self.judge.answers(outputs, positions)

    def _finish(self, finished: dict[Candidate, _Finished]) -> None:
        self._finished = finished
        if self.judge.additive:
            self._scores |= {candidate: self.judge.scores(one.answers) for candidate, one in finished.items()}

    def _finished_as(self, frontier: _Frontier, i: int, answers: Any) -> _Finished:
        return _Finished(answers, _statistics(frontier.network(i)) if self.calibration else {})

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        self.block_forwards += _num_images(x)
        return module(x)

    def _measure(self, module: nn.Module, batches: list[Tensor]) -> list[Tensor]:
        self.block_forwards += sum(map(_num_images, batches))
        return measure_statistics(module, batches)

    def _observe(self, module: nn.Module, batches: list[Tensor]) -> list[Tensor]:
        assert isinstance(module, Quantized)
        self.block_forwards += sum(map(_num_images, batches))
        return module.observe(batches)

    def _keep(self, blocks: set[BlockSpec]) -> None:
        """Contiguous modules of these blocks and no others."""
        self._modules = {
            block: self._modules.get(block) or self.supernet.block_module(block).to(memory_format=torch.channels_last)
            for block in blocks
        }


@dataclass(frozen=True)
class _Finished:
    """What a network that has seen all images leaves for the next step, whose base it may be."""

    answers: Any
    statistics: Statistics


class _Frontier:
    """Networks with common beginnings: each has the trunk's blocks up to its start, and then its own suffix."""

    def __init__(self, trunk: list[Part], starts: list[int], suffixes: list[list[Part]]) -> None:
        self.trunk, self.starts, self.suffixes = trunk, starts, suffixes
        self.keep(range(len(starts)))

    def keep(self, numbers: Collection[int]) -> None:
        """Runs only these networks from now on, and the trunk only as far as they share it."""
        self.branches: list[list[int]] = [[] for _ in range(1 + max(self.starts[i] for i in numbers))]
        for i in numbers:
            self.branches[self.starts[i]].append(i)

    def of_parts(self, change: Callable[[Part], Part]) -> _Frontier:
        """One that runs the same networks, of other parts."""
        return self._with(list(map(change, self.trunk)), [list(map(change, suffix)) for suffix in self.suffixes])

    def to_last_norms(self) -> _Frontier:
        """One without what follows the last norm of each network: a segmenter's logits are as large as its images."""
        return self._with(self.trunk, [_to_last_norm(suffix) for suffix in self.suffixes])

    def _with(self, trunk: list[Part], suffixes: list[list[Part]]) -> _Frontier:
        changed = _Frontier(trunk, self.starts, suffixes)
        changed.keep([i for branches in self.branches for i in branches])
        return changed

    def network(self, i: int) -> list[Part]:
        return self.trunk[: self.starts[i]] + self.suffixes[i]

    def outputs(
        self, run: Callable[[nn.Module, Activations], Activations], x: Activations
    ) -> Iterator[tuple[int, Activations]]:
        """(number, output) of each network for the input `x`."""
        for position, branches in enumerate(self.branches):
            if position > 0:
                x = run(self.trunk[position - 1][1], x)
            for i in branches:
                y = x
                for _, module in self.suffixes[i]:
                    y = run(module, y)
                yield i, y


def _to_last_norm(parts: list[Part]) -> list[Part]:
    last = max((i for i, part in enumerate(parts) if _live_statistics([part])), default=-1)
    return parts[: last + 1]


def _num_images(x: Any) -> int:
    """Of what a block takes: a tensor, or one with others that are handed on."""
    return _num_images(x[0]) if isinstance(x, tuple) else len(x)


def _live_statistics(parts: Sequence[Part]) -> Statistics:
    """The norms' buffers, under what is the same in every network of the space."""
    return {
        (block.kind, block.name, path): (norm.running_mean, norm.running_var)
        for block, module in parts
        for path, norm in module.named_modules()
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    }


def _statistics(parts: Sequence[Part]) -> Statistics:
    return {key: (mean.clone(), var.clone()) for key, (mean, var) in _live_statistics(parts).items()}


def _with_own_buffers(module: nn.Module) -> nn.Module:
    """A copy that shares the weights."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})
