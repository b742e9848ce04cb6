"""Baselines of each winner, trained as it was: the narrowed network, and the fine-tuned one pruned to its time.

What is there already is kept, what was interrupted goes on.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from nas import runs
from nas.data import DataConfig
from nas.exporting.winner import load_winners
from nas.proving.narrowing import narrowed
from nas.proving.search import Config, Search
from nas.pruning.config import Config as PruningConfig
from nas.pruning.job import prune
from nas.pruning.latency import measure
from nas.pruning.rounds import OutOfReach
from nas.pruning.source import Source, find
from nas.runs.baselines import ARCHS
from nas.runs.results import REMEDY, TrainedResult
from nas.training.recipe import StepConfig
from nas.training.winner import Config as TrainingConfig
from nas.training.winners import job_like, train_all
from search_spaces import Arch
from search_spaces.command.files import write_json
from search_spaces.command.forecast import say_time
from search_spaces.command.typed import load_typed

Missing = dict[str, str]  # baselines that there cannot be, and why


def narrowed_folder(search: Search, winner: str) -> Path:
    """Of the narrowed network of its time."""
    return search.trained(f"narrowed-{winner}{search.suffix}")


def pruned_folder(search: Search, winner: str) -> Path:
    """Of the network that is pruned to its time."""
    return search.run_folder / "prune" / f"as-fast-as-{winner}{search.suffix}"


def say_how_long(search: Search) -> None:
    """Of the baselines that are not there yet: each is trained as its winner was, and is about as fast."""
    kinds = (narrowed_folder, pruned_folder) if search.whole else (narrowed_folder,)
    left = [winner for folder in kinds for winner in search.winners if not _is_there(folder(search, winner))]
    minutes = [load_typed(TrainedResult, search.trained(w) / "result.json", REMEDY)["minutes"] for w in left]
    images = runs.load_classes_info(search.run_folder).splits.train
    say_time(
        f"{len(left)} networks to compare with, trained on {images:,} images as the winners were", 60 * sum(minutes)
    )


def trained_otherwise(search: Search) -> list[str]:
    """Which baselines had not as many epochs as their winner has had, a line each."""
    found = []
    for winner in search.winners:
        epochs = runs.begun(search.trained(winner), TrainingConfig).epochs
        narrow, pruned = narrowed_folder(search, winner), pruned_folder(search, winner)
        had = {narrow: runs.begun(narrow, TrainingConfig).epochs} if _is_there(narrow) else {}
        had |= {pruned: runs.begun(pruned, PruningConfig).finetune_epochs} if _is_there(pruned) else {}
        found += [
            f"WARNING: {folder.name} was trained for {other} epochs and {winner} for {epochs}; "
            f"remove {folder} and run nas.baselines again"
            for folder, other in had.items()
            if other != epochs
        ]
    return found


def _is_there(folder: Path) -> bool:
    return (folder / "result.json").exists()


# ---- narrowed


def train_narrowed(config: Config, search: Search) -> Missing:
    """Trains the narrowed network of each winner, in `retrain/`."""
    archs, missing = {}, Missing()
    for winner in search.winners:
        found = _narrowed(search, winner)
        if isinstance(found, Arch):
            archs[winner] = found
        else:
            missing[narrowed_folder(search, winner).name] = found
    networks: dict[str, dict[str, Any]]
    networks = {
        w: {"name": narrowed_folder(search, w).name, "arch": search.space.to_json(arch)} for w, arch in archs.items()
    }
    file, splits = search.run_folder / ARCHS, runs.load_classes_info(search.run_folder).splits
    write_json(file, list(networks.values()))
    jobs = [
        job_like(search.trained(winner), network, file, splits, _local(config))
        for winner, network in networks.items()
        if not _is_there(narrowed_folder(search, winner))
    ]
    if jobs:
        train_all(jobs[0].config, search.run_folder, jobs)
    return missing


def _narrowed(search: Search, winner: str) -> Arch | str:
    """The network, or why there is none."""
    folder = narrowed_folder(search, winner)
    if (folder / "config.json").exists():
        return search.space.from_json(runs.fact(folder, "arch", dict))
    limit_ms = float(search.latencies_ms([search.winners[winner]])[0])
    arch = narrowed(search.space, search.latencies_ms, limit_ms)
    if arch is None:
        return f"with all blocks the narrowest network takes more than the {limit_ms:.3f} ms of {winner}"
    if arch == search.space.largest:
        return f"the largest network takes no more than the {limit_ms:.3f} ms of {winner}"
    return arch


# ---- pruned


def prune_whole(config: Config, search: Search) -> Missing:
    """Prunes the fine-tuned network to the measured time of each winner, in `prune/`, timed by the search's backend."""
    if search.whole is None:
        print(f"{search.run_folder} was not begun with nas.finetune: there is no fine-tuned network, so none is pruned")
        return {}
    source = find(str(search.whole), None, None, DataConfig(), named=False)
    folders = {winner: pruned_folder(search, winner) for winner in search.winners}
    shares = _shares(config, search, [w for w, folder in folders.items() if not (folder / "config.json").exists()])
    missing = Missing()
    for winner, folder in folders.items():
        if _is_there(folder):
            continue
        if shares.get(winner, 0) >= 1:
            missing[folder.name] = f"{winner} is not faster than the fine-tuned network"
            continue
        share = shares.get(winner)
        settings = _begun(search, folder) if share is None else _settings(search, winner, share, source, config)
        try:
            prune(replace(settings, **_local(config)), source, folder, search.backend)
        except OutOfReach as error:
            missing[folder.name] = str(error)
    return missing


def _local(config: Config) -> dict[str, Any]:
    """Settings of this process."""
    return {"device": config.device, "num_workers": config.num_workers}


def _begun(search: Search, folder: Path) -> PruningConfig:
    return replace(runs.begun(folder, PruningConfig), model=str(search.whole), resume=True)


def _shares(config: Config, search: Search, winners: list[str]) -> dict[str, float]:
    """The time of each winner over that of the fine-tuned network, from one interleaved run."""
    if not winners:
        return {}
    models = {w.name: w.model() for w in load_winners(search.run_folder, (runs.WHOLE, *winners))}
    timings = measure(models, search.space.image_size, search.backend, config.samples).timings
    return {winner: round(timings[winner].min_ms / timings[runs.WHOLE].min_ms, 4) for winner in winners}


def _settings(search: Search, winner: str, share: float, source: Source, config: Config) -> PruningConfig:
    """Of a pruning that is fine-tuned as the winner was trained."""
    trained = runs.begun(search.trained(winner), TrainingConfig)
    steps = {field.name: getattr(trained, field.name) for field in fields(StepConfig)}
    return PruningConfig(
        **{**asdict(source.data), **steps},
        model=str(search.whole),
        target=f"latency={share}",
        finetune_epochs=trained.epochs,
        backend=search.backend.name,
        threads=search.backend.describe().threads or None,
        samples=config.samples,
        formats=(),
        run=str(search.run_folder),
        name=pruned_folder(search, winner).name,
    )
