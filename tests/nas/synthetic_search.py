"""Finished searches of any strategy as `nas.search` leaves them: real archs and costs, invented accuracies."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from nas.objective.mes import PUBLISHED, Objective
from nas.searching.search import Config
from search_spaces import Arch, SearchSpace, macs, num_params
from search_spaces.command.files import write_json

NUM_IMAGES = 200
TABLES = {"latency_ms": {"path": "runs/tables/t.json", "sha256": "0" * 64}}


def point(space: SearchSpace, arch: Arch, rng: random.Random | None = None) -> dict[str, Any]:
    """What an arch costs, and an accuracy that falls with its size, slowly and then fast."""
    latency, params = 0.1 + macs(space, arch) / 4e7, num_params(space, arch)
    accuracy = 0.95 - 0.5 * math.exp(-params / 5e5) + (rng.gauss(0, 0.01) if rng else 0.0)
    return {
        "arch": space.to_json(arch),
        "accuracy": round(NUM_IMAGES * accuracy) / NUM_IMAGES,
        "latency_ms": latency,
        "num_params": params,
        "macs": macs(space, arch),
        "mes": 100 / latency * (params / 3e6) ** -0.5,
    }


def add_strategy(folder: Path, space: SearchSpace, strategy: str, seed: int, budget: int = 40, skill: int = 0) -> Path:
    """A search in the run's folder, `folder`; the more skill, the more archs it takes the best of. Returns its own."""
    rng = random.Random(f"{strategy} {seed}")
    best = [space.largest]
    for _ in range(budget - 1):
        tried = [space.sample(rng) for _ in range(1 + skill)]
        best.append(max(tried, key=lambda a: math.prod(point(space, a)[n] for n in ("accuracy", "mes"))))
    evaluations = [
        {**point(space, arch, rng), "index": i, "seconds_since_start": 0.5 * (1 + i) * (1 + skill / 10)}
        for i, arch in enumerate(best)
    ]
    return write_search(folder / f"search-{strategy}-{seed}", strategy, evaluations, seed=seed, budget=budget)


def write_search(
    folder: Path,
    strategy: str,
    evaluations: list[dict[str, Any]],
    seed: int = 0,
    budget: int = 40,
    objective: Objective = PUBLISHED,
    tables: dict[str, Any] = TABLES,
    **changes: Any,
) -> Path:
    """A search of these evaluations; `changes` are of its result.json and, by their names, of its config.json."""
    common = {"strategy": strategy, "seed": seed, "budget": budget}
    config = {"command": "python -m nas.search", **Config().__dict__, **common, **changes}
    write_json(folder / "config.json", config)
    write_json(
        folder / "result.json",
        {
            "command": "python -m nas.search",
            "space": "efficientformerv2-nano",
            **common,
            "objective": objective.to_json(),
            "tables": tables,
            "num_images": NUM_IMAGES,
            "minutes": evaluations[-1].get("seconds_since_start", 0.0) / 60,
            "evaluations": evaluations,
            "num_evaluations": len(evaluations),
            "front": [],
            "winners": [],
            "earlier_winners": [],
            **changes,
        },
    )
    return folder
