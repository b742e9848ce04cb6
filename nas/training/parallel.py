"""Trains several networks at a time, through Ray Tune; ASHA stops those that are less accurate than the others early
(Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020, Algorithm 2).

A trial of Tune is `train_winner` in the network's own folder, with its checkpoints and metrics. From the metrics
the scheduler knows all that was trained before a kill, and Tune's own record, which would have to be unpickled, is not
needed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nas import runs
from nas.distributed.ray import TRIES, RayConfig, cluster, settle
from nas.runs.metrics import read_metrics
from nas.runs.results import REMEDY, Stopped
from nas.training.winner import Config, Job, train_winner
from search_spaces import UserError
from search_spaces.command.files import write_json
from search_spaces.command.typed import load_typed

REDUCTION = 3  # one network in so many goes on from each rung
FIRST_RUNG = 9  # the first rung is after one epoch in so many

Json = dict[str, Any]
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files of its own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends us as it does elsewhere
    "RAY_AIR_NEW_OUTPUT": "0",  # no tables
}


def train_parallel(config: RayConfig, run_folder: Path, jobs: Sequence[Job], scheduler: str) -> None:
    """Trains them `config.ray_workers` at a time, and writes `retrain/result.json`: which were stopped, and when.

    Args:
        jobs: begun, of the same number of epochs; also those that are over, which ASHA compares the others with.
        scheduler: asha, or none: all are trained to the end, those stopped before too.

    Raises:
        UserError: what one of them raised, or that its process has died again and again; the others are trained.
    """
    if scheduler == "none":
        for job in jobs:
            (job.folder / "stopped.json").unlink(missing_ok=True)
    problems: list[str] = []
    if not all(job.is_over for job in jobs):
        with cluster(config, jobs[0].config.device) as resources:
            problems = _fit(run_folder, jobs, scheduler, config.ray_workers, resources)
    rows = [{"name": j.folder.name, "test_accuracy": j.test_accuracy, "stopped": j.stopped} for j in jobs]
    result = {"command": runs.command_line(), "scheduler": scheduler, "epochs": jobs[0].config.epochs}
    write_json(run_folder / "retrain/result.json", {**result, "networks": rows})
    if problems:
        raise UserError(problems[0])


def _fit(
    run_folder: Path, jobs: Sequence[Job], scheduler: str, workers: int, resources: Mapping[str, float]
) -> list[str]:
    """Returns what went wrong, a line each."""
    os.environ.update(_SETTINGS)
    from ray import tune

    epochs, storage = jobs[0].config.epochs, (run_folder / "retrain").resolve()
    trials = {j.folder.name: {"config": asdict(j.config), "winner": j.winner} for j in jobs if not j.is_over}
    train = partial(_train, run_folder=run_folder, trials=trials, directory=Path.cwd())
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": resources["num_cpus"], "gpu": resources["num_gpus"]}),
        param_space={"name": tune.grid_search(list(trials))},
        tune_config=tune.TuneConfig(
            scheduler=_asha(epochs, jobs) if scheduler == "asha" and epochs > 1 else None,
            max_concurrent_trials=workers,
        ),
        run_config=tune.RunConfig(
            name=".tune",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=TRIES - 1),
            callbacks=[_watcher({job.folder.name: job.folder for job in jobs})],
            verbose=0,
        ),
    )
    try:
        return list(_problems(tuner.fit()))
    finally:
        shutil.rmtree(storage / ".tune", ignore_errors=True)


def _asha(epochs: int, jobs: Sequence[Job]) -> Any:
    """ASHA, which knows the accuracies of the jobs until now; those that it let go on, it does not judge once more."""
    from ray.tune.schedulers import ASHAScheduler

    histories = {job.folder.name: _history(job.folder) for job in jobs}

    class Resumed(ASHAScheduler):
        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(tune_controller, trial)
            for row in histories[trial.config["name"]]:
                self.on_trial_result(tune_controller, trial, row)  # it notes the accuracy, whatever it answers

    last = epochs - max(
        1, epochs // 20
    )  # of the accuracies before the one at the end: whoever comes there has a result
    first = min(last, max(1, epochs // FIRST_RUNG))
    scheduler = Resumed(
        time_attr="epoch",
        metric="accuracy",
        mode="max",
        max_t=last,
        grace_period=first,
        reduction_factor=REDUCTION,
        stop_last_trials=False,
    )
    for name in (job.folder.name for job in jobs if job.is_over):  # Tune has no trial of it
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=name, config={"name": name}))
    return scheduler


def _watcher(folders: Mapping[str, Path]) -> Any:
    """Shows how it goes, and records what the scheduler stops; Tune pickles it."""
    from ray.tune import Callback

    class Watcher(Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Json, **_: Any) -> None:
            if "message" not in result:
                name, accuracy = trial.config["name"], 100 * result["accuracy"]
                print(f"{name}: epoch {result['epoch']:g}, {accuracy:.2f} % of the search split", flush=True)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            folder, last = folders[trial.config["name"]], trial.last_result
            if not (folder / "result.json").exists() and "message" not in last:
                write_json(folder / "stopped.json", {name: last[name] for name in ("epoch", "accuracy")})
                print(f"{folder.name}: stopped at epoch {last['epoch']:g}", flush=True)
            elif "message" not in last:
                print(f"{folder.name}: finished", flush=True)

    return Watcher()


def _problems(results: Any) -> Iterator[str]:
    for result in results:
        if result.error is not None:
            died = f"the process of {result.config['name']} has died {TRIES} times, perhaps of memory"
            yield f"{died}; go on with --resume and fewer --ray-workers"
        elif message := (result.metrics or {}).get("message"):
            yield message


def _train(trial: Json, run_folder: Path, trials: Mapping[str, Json], directory: Path) -> None:
    """Goes on with the network in a process of Ray's; what it prints goes to progress.log in its folder."""
    from ray import tune

    settle(directory)
    job, folder = trials[trial["name"]], run_folder / "retrain" / trial["name"]
    config = Config(**{**job["config"], "resume": True})

    def report(epoch: float, accuracy: float) -> None:
        tune.report({"epoch": epoch, "accuracy": accuracy})

    with (folder / "progress.log").open("a") as log, redirect_stderr(log), redirect_stdout(log):
        try:
            data = runs.load_run_data(run_folder)
            train_winner(config, run_folder, folder.name, job["winner"], data, report)
        except UserError as error:
            tune.report({"epoch": 0, "accuracy": 0.0, "message": str(error)})


def _history(folder: Path) -> list[Json]:
    """The accuracies until now; the one that it was stopped for comes to no other file."""
    path = folder / "stopped.json"
    stopped = [load_typed(Stopped, path, REMEDY)] if path.exists() else []
    rows: list[Mapping[str, Any]] = [*read_metrics(folder / "metrics.jsonl"), *stopped]
    return [{"epoch": row["epoch"], "accuracy": row["accuracy"]} for row in rows if "accuracy" in row]
