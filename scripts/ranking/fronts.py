"""Whether a search's front is worth another's: hypervolumes of both, evaluated on the same search images.

    python -m scripts.ranking.fronts --run my-run --searches search-plan search-today

Searches know their networks by the images that they were given; here all search images are asked, with norms
recalibrated alike. Hypervolume is of accuracy above guessing and of the logarithm of MES above that of the largest
network. Its difference has a 95 % interval by images drawn with replacement, the same for both (Efron 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas import runs
from nas.objective.hypervolume import hypervolume_history
from nas.objective.precisions import precision_of
from nas.searching.evaluators import EvaluatorConfig, make_evaluator
from nas.searching.result import objective_of, points_of, read_result
from search_spaces import UserError
from search_spaces.command import Flags, align, flag, parse, run

RESAMPLES = 1_000


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run of the searches (default: the newest)")
    searches: tuple[str, ...] = flag(("search", "search-2"), "folders of two of its searches")
    calibration_images: int | None = flag(None, "training images that norms are recalibrated on, as nas.search has it")


@dataclass(frozen=True)
class Front:
    """
    Args:
        scores: (networks,) logarithms of MES, above that of the largest network.
        right: (networks, images) right answers.
    """

    name: str
    scores: np.ndarray
    right: np.ndarray

    def hypervolume(self, chance: float, images: np.ndarray | slice = slice(None)) -> float:
        """On these images."""
        points = np.stack([self.right[:, images].mean(axis=1) - chance, self.scores], axis=1)
        return float(hypervolume_history(points, np.zeros(2))[-1])


def fronts(config: Config) -> tuple[list[Front], float]:
    """Those of the searches, and the accuracy of guessing.

    Raises:
        UserError: not two searches of one MES; no such run.
    """
    folder = runs.find_trained(config.run)
    if len(config.searches) != 2:
        raise UserError(f"--searches names {len(config.searches)}; give two, to compare")
    results = {name: read_result(folder / name) for name in config.searches}
    one, other = (objective_of(result) for result in results.values())
    if one.terms != other.terms:
        raise UserError(f"{' and '.join(config.searches)} are of two definitions of MES; give searches of one")
    space = runs.load_classes_info(folder).search_space()
    evaluator = make_evaluator(EvaluatorConfig(folder, calibration_images=config.calibration_images))
    found = []
    for name, result in results.items():
        points = [p for p in points_of(result) if p["pareto"]]
        right = np.concatenate([evaluator.scores([space.from_json(p["arch"])], precision_of(p)) for p in points])
        found.append(Front(name, np.log([p["mes"] for p in points]) - np.log(_largest(results, space)), right))
    return found, 1 / space.num_classes


def _largest(results: dict[str, Any], space: Any) -> float:
    """MES of the largest network, which slimming begins with."""
    arch = space.to_json(space.largest)
    known = [p["mes"] for result in results.values() for p in points_of(result) if p["arch"] == arch]
    return float(known[0] if known else min(p["mes"] for result in results.values() for p in points_of(result)))


def compare(one: Front, other: Front, chance: float) -> str:
    """Both hypervolumes, and the first's less the second's."""
    rng, count = np.random.default_rng(0), one.right.shape[1]
    draws: list[np.ndarray] = list(rng.integers(count, size=(RESAMPLES, count)))
    low, high = np.percentile([one.hypervolume(chance, d) - other.hypervolume(chance, d) for d in draws], [2.5, 97.5])
    rows = [("", "networks", "hypervolume")]
    rows += [(front.name, str(len(front.right)), f"{front.hypervolume(chance):.4f}") for front in (one, other)]
    difference = one.hypervolume(chance) - other.hypervolume(chance)
    told = f"{one.name} less {other.name}: {difference:+.4f} (95 %: {low:+.4f} to {high:+.4f}), {count:,} images"
    return f"{align(rows, '<>>')}\n{told}"


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, "python -m scripts.ranking.fronts", __doc__ or "")
    (one, other), chance = fronts(config)
    print(compare(one, other, chance))


if __name__ == "__main__":
    run(main)
