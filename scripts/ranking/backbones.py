"""Whether searched backbones find more than narrowed and random ones that are as fast: boxes by AP, masks by mIoU.

    python -m scripts.ranking.backbones --task detect --space timm/tf_efficientnet_lite0 --init lite0.safetensors
    python -m scripts.ranking.backbones --task segment --seeds 0 1

From each seed a supernet is trained and searched under two limits of latency: those of two uniformly narrowed networks.
Beside what was found are trained, by the same recipe from the same supernet, the narrowed network and a random one of
95 to 100 % of the limit. Figures are of test images; differences are means over the seeds with their standard errors.
What is done is kept in runs/, so the same command goes on with it, with more --seeds and --shares, too; the settings
and the result are in runs/studies/NAME-TASK/.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from latency_lut.measurement.build import BuildConfig, build_table
from latency_lut.tables.table import LatencyTable
from nas import runs
from nas.dense.job import configure, train
from nas.dense.result import read_result
from nas.objective.metrics import LATENCY
from nas.objective.tables import newest
from nas.proving.narrowing import narrowings
from nas.searching import search as searching
from nas.searching.result import read_result as read_search
from nas.supernets import tasks
from nas.supernets.kinds import kind_of
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import Flags, align, flag, parse, run, settings
from search_spaces.command.files import write_json

FREE = ("seeds", "shares")  # each has folders of its own
KINDS = ("searched", "narrowed", "random")
TRIES = 100_000  # of drawing a random network that is as fast


@dataclass(frozen=True)
class Config(Flags):
    task: Literal["detect", "segment"] = flag("detect", "what networks learn")
    space: str = flag("mobileone-nano", "search space of the backbones")
    init: str | None = flag(None, "weights that supernets start from, as nas.train_supernet has it")
    image_size: int = flag(96, "height and width of the images", minimum=32)
    seeds: tuple[int, ...] = flag((0, 1, 2), "of everything", minimum=0)
    supernet_epochs: int = flag(12, "of a supernet", minimum=1)
    epochs: int = flag(8, "of each network", minimum=1)
    budget: int = flag(40, "networks that a search evaluates", minimum=1)
    samples: int = flag(40, "timings of each graph of the latency table", minimum=5)
    shares: tuple[float, ...] = flag(
        (0.25, 0.6), "of the way from the fastest narrowed network to the largest", minimum=0, maximum=1
    )
    name: str = flag("backbones", "of the runs, in front of the task and the seed")


class Trained(NamedTuple):
    seed: int
    share: float
    kind: str
    figure: float
    predicted_ms: float
    measured_ms: float


def study(config: Config) -> list[Trained]:
    """
    Raises:
        UserError: a study of other settings, or runs of unknown ones, by that name.
    """
    folder = folder_of(config)
    if (folder / "config.json").exists():
        runs.reopen(folder, config, FREE)
    elif there := [run for seed in config.seeds if (run := _run_folder(config, seed)).exists()]:
        raise UserError(f"{there[0]} is there, but {folder}/config.json, its settings, is not; give another --name")
    else:
        runs.begin(folder, config)
    return [one for seed in config.seeds for one in _of_seed(config, seed)]


def folder_of(config: Config) -> Path:
    return runs.RUNS / "studies" / f"{config.name}-{config.task}"


def _run_folder(config: Config, seed: int) -> Path:
    return runs.run_folder(f"{config.name}-{config.task}-{seed}")


def _of_seed(config: Config, seed: int) -> Iterator[Trained]:
    folder = _supernet(config, seed)
    space = runs.load_run_info(folder).search_space()
    path = newest(space).get(LATENCY) or build_table(BuildConfig(run=str(folder), samples=config.samples))
    latency = LatencyTable.load(path).predictor(space)

    def ms(archs: Sequence[Arch]) -> np.ndarray:
        return np.asarray(latency(space.encode(archs)))

    path_down = list(narrowings(space))
    times = ms(path_down)
    for share in config.shares:
        limit = times.min() + share * (times[0] - times.min())
        narrow = path_down[int(np.abs(times - limit).argmin())]
        limit = float(ms([narrow])[0])
        archs = {
            "searched": _searched(config, folder, space, share, limit, path),
            "narrowed": narrow,
            "random": _random(space, ms, limit, seed),
        }
        for kind, arch in archs.items():
            figure, measured = _train(config, folder, space, seed, f"{kind}-{share:g}", arch)
            yield Trained(seed, share, kind, figure, float(ms([arch])[0]), measured)


def _supernet(config: Config, seed: int) -> Path:
    folder = _run_folder(config, seed)
    if not (folder / "supernet/result.json").exists():
        begun = (folder / "supernet/config.json").exists()
        given: dict[str, Any] = {"space": config.space, "image_size": config.image_size, "seed": seed}
        given |= {"init": config.init} if config.init else {}
        given |= {"epochs": config.supernet_epochs, "sampling": "uniform", "num_random": 3}
        kind: Any = tasks.TASKS[config.task]
        tasks.train_supernet(settings(kind, run=folder.name, **({"resume": True} if begun else given)))
    return folder


def _searched(config: Config, folder: Path, space: SearchSpace, share: float, limit: float, table: Path) -> Arch:
    name = f"at-{share:g}"
    place = folder / f"search-{name}"
    if not (place / "result.json").exists() or not read_search(place)["winners"]:
        begun = (place / "config.json").exists()
        given: dict[str, Any] = {"strategy": "predictor", "budget": config.budget, "metrics": ("latency",)}
        given |= {"max_latency_ms": (str(limit),), "calibration_images": 256, "winners": 1, "table": (str(table),)}
        flags = {"resume": True} if begun else given
        searching.search(searching.configure(settings(searching.Config, run=str(folder), name=name, **flags)))
    return space.from_json(read_search(place)["winners"][0]["arch"])


def _random(space: SearchSpace, ms: Any, limit: float, seed: int) -> Arch:
    rng = random.Random(seed)
    for _ in range(TRIES // 100):
        archs = [space.sample(rng) for _ in range(100)]
        near = [arch for arch, t in zip(archs, ms(archs), strict=True) if 0.95 * limit <= t <= limit]
        if near:
            return near[0]
    raise UserError(f"no random network of {space.name} takes 95 to 100 % of {limit:.3f} ms; give other --shares")


def _train(config: Config, folder: Path, space: SearchSpace, seed: int, name: str, arch: Arch) -> tuple[float, float]:
    """The figure on test images, and the ONNX file's latency."""
    kind: Any = kind_of(space.name)
    place = folder.with_name(f"{folder.name}-{name}")
    file = folder / f"{name}.json"
    if not (place / kind.stage / "result.json").exists():
        write_json(file, space.to_json(arch))
        begun = (place / kind.stage / "config.json").exists()
        given: dict[str, Any] = {"backbone": f"{folder.name}:{file}", "epochs": config.epochs, "seed": seed}
        flags = {"resume": True} if begun else {**given, "formats": ("onnx",)}
        train(kind, configure(kind, settings(kind.config, run=place.name, **flags)))
    result = read_result(place / kind.stage)
    return result["test"][kind.metric], result["files"]["onnx"]["latency_ms"]["min"]


def as_text(config: Config, found: Sequence[Trained]) -> str:
    """A line for each limit and kind, and the lead of what was searched."""
    rows = [("way", "network", "figure, %", "predicted, ms", "measured, ms", "searched ahead by, points")]
    for share in config.shares:
        figures = {k: np.array([t.figure for t in found if (t.share, t.kind) == (share, k)]) for k in KINDS}
        for kind in KINDS:
            of = [t for t in found if (t.share, t.kind) == (share, kind)]
            lead = "" if kind == KINDS[0] else _mean(100 * (figures[KINDS[0]] - figures[kind]))
            means = (f"{np.mean([t.predicted_ms for t in of]):.3f}", f"{np.mean([t.measured_ms for t in of]):.3f}")
            rows.append((f"{share:g}", kind, _mean(100 * figures[kind]), *means, lead))
    return align(rows, "><>>>>")


def _mean(values: np.ndarray) -> str:
    """With its standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.1f} ± {error:.1f}"


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, "python -m scripts.ranking.backbones", __doc__ or "")
    found = study(config)
    write_json(folder_of(config) / "result.json", [one._asdict() for one in found])
    print(as_text(config, found))


if __name__ == "__main__":
    run(main, "start it again: it goes on")
