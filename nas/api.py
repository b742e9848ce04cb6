"""The commands as functions, what they make as objects, and figures as pandas frames.

    from nas.api import finetune

    run = finetune(model="tf_efficientnet_lite0", data="photos", image_size=96)
    run.train_supernet()
    found = run.search(strategy="predictor", budget=150, max_latency_ms=2.0)
    print(found.evaluated.sort_values("accuracy"))
    for winner in found.retrain():
        print(winner.name, winner.test_accuracy)
        network = winner.model()  # torch.nn.Module, in evaluation mode
    run.export(formats=["onnx", "coreml"])
    run.report()

Settings are the flags of the commands, by the same names (`--batch-size` is `batch_size`), with the same defaults and
recipes; a setting that there is not, or a value of the wrong type or out of its range, is a `UserError` of one line.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from latency_lut.measurement import build
from latency_lut.measurement.interpreter import delegate
from latency_lut.tables.table import LatencyTable, find_table
from nas import runs
from nas.exporting import export as exporting
from nas.exporting.winner import Winner, load_winners
from nas.networks.backbones import backbone_of
from nas.proving.baselines import compare_with_baselines
from nas.proving.search import Config as BaselinesConfig
from nas.pruning import configure as pruning
from nas.pruning.config import Config as PruningConfig
from nas.pruning.job import prune as _prune
from nas.reporting import report as reporting
from nas.runs.baselines import Baselines, read_baselines
from nas.searching import search as searching
from nas.searching.result import evaluations, frame, read_result
from nas.supernets import tasks
from nas.training import finetune as finetuning
from nas.training import winners
from nas.training.winner import Config as WinnerConfig
from search_spaces import UserError
from search_spaces.command import Flags, settings, spell
from search_spaces.dense.backbone import Backbone

if TYPE_CHECKING:
    import pandas as pd

Config = TypeVar("Config", bound=Flags)
INTERRUPTED = 130  # exit status of a command that Ctrl-C has ended

__all__ = ["Backbone", "Run", "Search", "UserError", "Winner", "build_table", "finetune", "prune", "train_supernet"]


def finetune(**flags: Any) -> Run:
    """A pretrained network of timm on your images, as it is: `python -m nas.finetune`."""
    with _settings("nas.finetune", finetuning.Config, flags) as config:
        return Run(finetuning.finetune(finetuning.configure(config)))


def train_supernet(**flags: Any) -> Run:
    """One set of weights for every network of a space, on your images: `python -m nas.train_supernet`.

    With `task="detect"` of networks that find objects, `task="segment"` of such that classify pixels.
    """
    run = flags.get("run")
    kind: type[Any] = tasks.config_of(flags.get("task"), flags.get("resume", False), None if run is None else str(run))
    with _settings("nas.train_supernet", kind, flags) as config:
        return Run(tasks.train_supernet(config))


def prune(**flags: Any) -> Path:
    """Part of a network taken away; the folder with what is left: `python -m nas.prune`."""
    with _settings("nas.prune", PruningConfig, flags) as config:
        config, source, folder = pruning.configure(config)
        _prune(config, source, folder)
        return folder


def build_table(**flags: Any) -> LatencyTable:
    """Your device measured, once for each space and image size: `python -m latency_lut.build`."""
    with _settings(build.MODULE, build.BuildConfig, flags) as config:
        if _done_elsewhere(build.MODULE, config, config.python):
            return LatencyTable.load(find_table(config.out))
        return LatencyTable.load(build.build_table(config))


@contextmanager
def _settings(module: str, kind: type[Config], flags: dict[str, Any]) -> Iterator[Config]:
    """The settings of a command, which is recorded as if it had been typed, and leaves the stages that it worked in."""
    config = settings(kind, **flags)
    with runs.called_as(spell(module, config)), runs.released():
        yield config


def _done_elsewhere(module: str, config: Flags, python: str | None, also: Sequence[str] = ()) -> bool:
    """Runs the command of these settings by another interpreter, if one is given, as `delegate` does.

    Raises:
        UserError: it cannot, or has ended unsuccessfully.
    """
    try:
        return delegate(python, module, shlex.split(spell(module, config))[3:], also)
    except SystemExit as error:
        if error.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        raise UserError(f"{python} -m {module} has ended with status {error.code}; its last line says why") from None


@dataclass(frozen=True)
class Run:
    """What lies in the folder of a run, under `runs/`."""

    folder: Path

    @classmethod
    def open(cls, name: str | Path | None = None) -> Run:
        """The run of that name or path, or the newest.

        Raises:
            UserError: there is none.
        """
        return cls(runs.find_run(None if name is None else str(name), "run.json", "python -m nas.train_supernet"))

    @property
    def info(self) -> runs.RunInfo:
        """Space, image size, classes, normalization and splits."""
        return runs.load_run_info(self.folder)

    def train_supernet(self, **flags: Any) -> Run:
        """Trains the supernet of a run that `finetune` began, on the same splits."""
        return train_supernet(**{**flags, "run": str(self.folder)})

    def build_table(self, **flags: Any) -> LatencyTable:
        """Your device measured for the networks of the run: `python -m latency_lut.build`."""
        return build_table(**{**flags, "run": str(self.folder)})

    def search(self, **flags: Any) -> Search:
        """Searches the trained supernet: `python -m nas.search`."""
        with self._settings("nas.search", searching.Config, flags) as config:
            return Search(searching.search(searching.configure(config)))

    @property
    def searches(self) -> list[Search]:
        """All that are finished, the oldest first."""
        found = sorted(self.folder.glob("search*/result.json"), key=lambda path: path.stat().st_mtime_ns)
        return [Search(path.parent) for path in found]

    def retrain(self, **flags: Any) -> list[Winner]:
        """Trains networks on their own and tests them: `python -m nas.retrain`.

        Those that ASHA has stopped (`ray_workers` with `archs`, or `scheduler="asha"`) are not among those returned.
        """
        with self._settings("nas.retrain", WinnerConfig, flags) as config:
            config, folder, jobs = winners.configure(config)
            winners.train_all(config, folder, jobs)
            names = tuple(job.folder.name for job in jobs if job.test_accuracy is not None)
            return load_winners(folder, names) if names else []

    @property
    def trained(self) -> list[Winner]:
        """Every network of the run that was trained on its own: the fine-tuned one, winners, baselines."""
        return load_winners(self.folder, ())

    def baselines(self, **flags: Any) -> Baselines:
        """Retrained winners beside what would have been picked without the search: `python -m nas.baselines`."""
        with self._settings("nas.baselines", BaselinesConfig, flags) as config:
            compare_with_baselines(config)
        found = read_baselines(self.folder)
        assert found is not None
        return found

    def export(self, **flags: Any) -> Path:
        """Files for phones of retrained networks, in the folder returned: `python -m nas.export`."""
        with self._settings("nas.export", exporting.Config, flags) as config:
            if not _done_elsewhere("nas.export", config, config.python, exporting.PACKAGES):
                exporting.export(config)
        return self.folder / "export"

    def report(self) -> Path:
        """One page with everything that the run has found: `python -m nas.report`."""
        return reporting.report(reporting.Config(run=str(self.folder)))

    def backbone(self, winner: str, init: str | None = None, **sizes: int | None) -> Backbone:
        """The maps of a network of the run, for detectors and other heads, with its weights.

        Args:
            winner: a name: of one that was trained (`trained`) or picked (`Search.winners`), or `smallest`, `largest`.
            init: `trained`, `inherit` (the supernet's), `scratch`, `pretrained` or a file; None: the first there is.
            sizes: `image_size`, `output_stride`, `finest_stride`, as `search_spaces.dense.backbone.Backbone` has them.
        """
        return backbone_of(self.folder, winner, init, **sizes)

    def _settings(self, module: str, kind: type[Config], flags: dict[str, Any]) -> AbstractContextManager[Config]:
        """Of a command on this run."""
        return _settings(module, kind, {**flags, "run": str(self.folder)})


@dataclass(frozen=True)
class Search:
    """A finished search, in its folder."""

    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        """Its `result.json`."""
        return read_result(self.folder)

    @property
    def evaluated(self) -> pd.DataFrame:
        """A row for each network that was evaluated, in order: accuracy on the search split (a fraction), latency_ms,
        num_params, macs, memory_mb, mes, whether it is on the Pareto front, and each choice."""
        result = self.result
        on_front, rows = set(result.get("front", ())), evaluations(result)
        return frame([{**row, "pareto": row.get("pareto", i in on_front)} for i, row in enumerate(rows)])

    @property
    def winners(self) -> pd.DataFrame:
        """The same of those that were picked, by name.

        Raises:
            UserError: none was, since no network that was evaluated is within the limits.
        """
        return frame(self._picked["winners"]).set_index("name")

    @property
    def recommended(self) -> str:
        """The name of the winner to take; `result["recommended"]["sentence"]` says why.

        Raises:
            UserError: none was picked, since no network that was evaluated is within the limits.
        """
        return str(self._picked["recommended"]["name"])

    def retrain(self, **flags: Any) -> list[Winner]:
        """Trains the winners on their own and tests them: `python -m nas.retrain`."""
        return Run(self.folder.parent).retrain(**{**flags, "search": self.folder.name})

    @property
    def _picked(self) -> dict[str, Any]:
        """Its `result.json`, with winners."""
        result = self.result
        if not result["winners"]:
            raise UserError(
                f"{self.folder} picked no winner; go on with search(resume=True) and limits that can be met"
            )
        return result
