"""Trains the rows of a paper's table from scratch, with every seed, and puts what they reach beside the paper's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from latency_lut.measurement.sessions import now
from nas import runs
from nas.data import Data, DataConfig, load_data
from nas.evaluation.accuracy import accuracy
from nas.evaluation.intervals import wilson
from nas.training.network import fresh, make_trainer
from nas.training.recipe import FREE_ON_RESUME, TrainConfig, check_fits, with_recipe
from scripts.published.arms import TABLES, Arm
from search_spaces import UserError, macs, num_params
from search_spaces.command import align, amend, fill, flag
from search_spaces.command.files import read_json, slug, write_json, write_text

DIGITS_EPOCHS = 10
HEAD = ("", "paper, %", "here, %", "95 % interval", "against the first: paper", "here", "parameters, M", "MACs, M")


@dataclass(frozen=True)
class Config(TrainConfig, DataConfig):
    table: str = flag("", "which; without it, the list of them", positional=True)
    image_size: int = flag(0, "height and width of the images (default: 32, of mobilevit-tiny 64)", minimum=0)
    seeds: int = flag(1, "trainings of each row, with --seed and the seeds after it", minimum=1)
    folder: str | None = flag(None, "name of the study under runs/studies/ (default: made of table and data)")


FREE, AMEND = (*FREE_ON_RESUME, "folder"), ("seeds",)


def configure(config: Config) -> Config:
    """The config; what was not given is as the study was begun with, or what suits the images.

    Raises:
        UserError: no such table.
    """
    if config.table not in TABLES:
        raise UserError(f"there is no table {config.table!r}; choose from {', '.join(TABLES)}")
    folder = folder_of(config)
    if (folder / "config.json").exists():
        return fill(config, runs.begun(folder, Config))
    if not config.image_size:
        config = amend(config, image_size=TABLES[config.table].image_size)
    family = next(TABLES[config.table].arms(config.image_size, 2)).space
    return fill(config, with_recipe(config, config.image_size, config.data, DIGITS_EPOCHS, family.recipe))


def folder_of(config: Config) -> Path:
    data = Path(config.data).name.removesuffix(".tar") or "data"
    return runs.RUNS / "studies" / (config.folder or slug(f"{config.table}-{data}"))


def study(config: Config) -> Path:
    """Trains what is not trained yet, and returns the study's folder.

    Raises:
        UserError: a study of other settings or images in that folder.
    """
    folder, data = folder_of(config), load_data(config)
    arms = list(TABLES[config.table].arms(config.image_size, len(data.classes)))
    jobs = [(arm, seed) for seed in range(config.seed, config.seed + config.seeds) for arm in arms]
    for arm, seed in jobs:
        check_fits(_settings(config, arm, seed), arm.space)
    facts = {"data_digest": data.splits.digest}
    if (folder / "config.json").exists():
        runs.record(folder, runs.reopen(folder, config, FREE, (*AMEND, *runs.ClassesRun.may_move), **facts))
    else:
        runs.begin(folder, config, **facts)
    found = [_trained(config, folder, arm, seed, data, f"{i} of {len(jobs)}") for i, (arm, seed) in enumerate(jobs, 1)]
    rows = [_row(arm, [result for (one, _), result in zip(jobs, found, strict=True) if one is arm]) for arm in arms]
    result = _result(config, len(data.test), rows)
    write_json(folder / "result.json", result)
    write_text(folder / "table.md", as_markdown(result))
    print(f"{as_text(result)}\nwrote {folder}/result.json and table.md")
    return folder


def _settings(config: Config, arm: Arm, seed: int) -> Config:
    """Of one training: what was not given is the row's own."""
    return fill(amend(config, seed=seed), replace(config, seed=seed, **arm.settings))


def _trained(config: Config, folder: Path, arm: Arm, seed: int, data: Data, number: str) -> dict[str, Any]:
    """The result of one training, which is done if it was not."""
    place = folder / f"{slug(arm.label)}-seed{seed}"
    path, settings = place / "result.json", _settings(config, arm, seed)
    if not path.exists():
        network = fresh(settings, arm.space, arm.arch)
        if arm.prepare is not None:
            arm.prepare(network)
        images = data.normalized(arm.space.mean, arm.space.std)
        trainer = make_trainer(settings, place, config.image_size, images, network)
        trainer.resume()
        trainer.fit(f"{arm.label}, seed {seed} ({number})")
        model = trainer.ema.module.eval()
        reached = accuracy(model, images.test, config.image_size, trainer.device, config.num_workers)
        write_json(path, {"test_accuracy": reached, "minutes": trainer.seconds / 60})
    return dict(read_json(path))


def _row(arm: Arm, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "label": arm.label,
        "paper": arm.paper,
        "test_accuracies": [result["test_accuracy"] for result in results],
        "minutes": sum(result["minutes"] for result in results),
        "arch": arm.space.to_json(arm.arch),
        "num_params": num_params(arm.space, arm.arch),
        "macs": macs(arm.space, arm.arch),
    }


def _result(config: Config, num_images: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    table = TABLES[config.table]
    return {
        "command": runs.command_line(),
        "date": now(),
        "title": table.title,
        "source": table.source,
        "settings": asdict(config),
        "num_images": num_images,
        "rows": rows,
    }


# ---- what readers see


def _cells(result: dict[str, Any]) -> list[list[str]]:
    first, cells = result["rows"][0], []
    for row in result["rows"]:
        reached = fmean(row["test_accuracies"])
        spread = f" ± {100 * stdev(row['test_accuracies']):.2f}" if len(row["test_accuracies"]) > 1 else ""
        count = result["num_images"]
        low, high = wilson(reached * count, count)
        lead = 100 * (reached - fmean(first["test_accuracies"]))
        cells.append(
            [
                row["label"],
                f"{row['paper']:.1f}",
                f"{100 * reached:.2f}{spread}",
                f"{100 * low:.1f}–{100 * high:.1f}",
                "" if row is first else f"{row['paper'] - first['paper']:+.1f}",
                "" if row is first else f"{lead:+.2f}",
                f"{row['num_params'] / 1e6:.3f}",
                f"{row['macs'] / 1e6:.1f}",
            ]
        )
    return cells


def _note(result: dict[str, Any]) -> str:
    settings, minutes = result["settings"], sum(row["minutes"] for row in result["rows"])
    return (
        f"{result['title']}: {result['source']}. Here: {Path(settings['data']).name} at {settings['image_size']} px, "
        f"{settings['epochs']} epochs, {settings['seeds']} seeds, {result['num_images']} test images, "
        f"{minutes:.0f} minutes of training; ± is the standard deviation over seeds."
    )


def as_text(result: dict[str, Any]) -> str:
    return f"{_note(result)}\n{align([list(HEAD), *_cells(result)], '<' + '>' * (len(HEAD) - 1))}"


def as_markdown(result: dict[str, Any]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *_cells(result)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"`{result['command']}`, {result['date']}\n\n{_note(result)}\n\n{table}\n"
