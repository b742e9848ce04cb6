"""The settings of nas.prune."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from nas.data import DataConfig
from nas.exporting.files import FileConfig, PrecisionConfig
from nas.networks.weights import CheckpointImages
from nas.pruning.rounds import Method, Target
from nas.pruning.selection import default_scope
from nas.training.recipe import StepConfig, TrainConfig
from search_spaces import UserError
from search_spaces.command import flag


@dataclass(frozen=True)
class Config(StepConfig, DataConfig, PrecisionConfig, CheckpointImages):
    model: str = flag("deit_tiny_patch16_224", "timm name, or folder of a pruned, retrained or exported network")
    checkpoint: str | None = flag(None, "a timm network's weights: .safetensors, or a state dict in .pth or .pt")
    image_size: int | None = flag(None, "pixels of a timm network (default: timm's, 32 for digits)", minimum=1)
    target: str = flag("macs=0.5", "metric and share to reach: macs=…, params=… or latency=… (measured)")
    criterion: Literal["taylor", "magnitude", "random"] = flag("taylor", "what says which units matter")
    scope: Literal["local", "global", "isomorphic"] | None = flag(
        None,
        "ranked together: units of a layer, of the network, of layers with one structure "
        "(default: global with taylor, isomorphic with the others)",
    )
    normalize: Literal["none", "params", "macs", "latency"] = flag("macs", "divide importance by what removal saves")
    round_to: int = flag(8, "widths become multiples of this; heads go one by one", minimum=1)
    iterative: int = flag(1, "rounds of importance and removal", minimum=1)
    round_epochs: int = flag(0, "epochs of training between the rounds", minimum=0)
    finetune_epochs: int = flag(30, "epochs of training afterwards", minimum=1)
    dense_epochs: int = flag(300, "epochs that a timm network without checkpoint is trained before", minimum=1)
    images: int | None = flag(
        None, "training images that Taylor importance takes (default: 1024; on a CPU what takes about 20 s)", minimum=2
    )
    backend: str = flag("onnxruntime", "runtime that measures latency; python -m latency_lut.backends lists them")
    threads: int | None = flag(None, "threads that run one network on a CPU (default: 1)", minimum=1)
    samples: int = flag(40, "undisturbed samples of each network that is timed", minimum=2)
    formats: tuple[Literal["onnx", "coreml", "litert", "executorch"], ...] = flag(
        ("onnx", "coreml"), "files to write beside the recipe and weights"
    )
    run: str | None = flag(None, "run under runs/ (default: the network's own, or <model>-<data>)")
    name: str | None = flag(None, "folder in prune/ of the run (default: made of target, criterion, scope)")
    resume: bool = flag(False, "go on with the pruning named, or the newest")

    def train_config(self, epochs: int) -> TrainConfig:
        """Of a training of that length."""
        return TrainConfig(epochs=epochs, **{f.name: getattr(self, f.name) for f in fields(StepConfig)})

    def file_config(self) -> FileConfig:
        """Of the files that it is exported as."""
        same = {f.name: getattr(self, f.name) for f in fields(PrecisionConfig)}
        return FileConfig(formats=self.formats, threads=self.threads or 1, **same)

    def plan(self, dense_first: bool) -> str:
        """What takes time; how much, each training says.

        Args:
            dense_first: whether the network has to be trained before.
        """
        trained = f"trained for {self.dense_epochs} epochs, then " if dense_first else ""
        rounds = f" in {self.iterative} rounds" if self.iterative > 1 else ""
        return f"{trained}pruned to {self.target}{rounds}, then trained for {self.finetune_epochs} epochs"

    def check(self) -> None:
        """UserError if flags do not go together."""
        self.method()
        if self.formats:
            replace(self.file_config(), threads=1).check()  # threads are for the latency of networks, too
        if self.round_epochs and self.iterative == 1:
            raise UserError(f"--round-epochs {self.round_epochs} is between rounds; give --iterative 2 or more with it")
        if self.images is not None and self.criterion != "taylor":
            raise UserError(f"--images is for --criterion taylor, {self.criterion} takes none; leave it out")

    def method(self) -> Method:
        target = Target.parse(self.target)
        scope = self.scope or default_scope(self.criterion)
        return Method(target, self.criterion, scope, self.normalize, self.round_to, self.seed)
