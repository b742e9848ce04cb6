"""What boxes and masks differ in: their data, networks, batches and figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import nn

from nas.dense.config import DenseConfig
from nas.dense.result import DenseResult, read_result, space_of
from nas.runs import RunInfo
from nas.runs.checkpoint import load_module, load_tensors
from nas.runs.folders import WEIGHTS
from nas.scenes import SceneData, Scenes
from nas.scenes.embedded import EMBEDDED
from nas.scenes.transforms import Joint
from search_spaces import Arch, SearchSpace
from search_spaces.dense.space import HeadedSpace

S = TypeVar("S", bound=Scenes)
Config = TypeVar("Config", bound=DenseConfig)
Figures = dict[str, Any]
PAGE = "report.html"  # in the folder of a stage


class Kind(ABC, Generic[S, Config]):
    """
    Attributes:
        stage: its folder in a run, and its command, `nas.stage`.
        metric: the figure by which its networks are compared, a fraction; for a reader `metric_label`.
        config: its flags.
        runs: what `run.json` of a run of its images is.
        published, embedded: settings that suit photos, and the embedded scenes.
    """

    stage: ClassVar[str]
    metric: ClassVar[str]
    metric_label: ClassVar[str]
    runs: ClassVar[type[RunInfo]]
    config: type[Config]
    published: ClassVar[Mapping[str, Any]]
    embedded: ClassVar[Mapping[str, Any]]

    @property
    def may_move(self) -> tuple[str, ...]:
        """Settings that say where the images lie, and what is on them."""
        return self.runs.may_move

    @property
    def command(self) -> str:
        return f"nas.{self.stage}"

    def recipe(self, data: str) -> Mapping[str, Any]:
        """The settings that suit these images."""
        return self.embedded if data == EMBEDDED else self.published

    @abstractmethod
    def load(self, config: Any) -> SceneData[S]:
        """The images that the config names, in three splits; UserError on bad ones."""

    @abstractmethod
    def network(self, space: SearchSpace, arch: Arch, num_classes: int) -> nn.Module:
        """With fresh weights: it has a `backbone`, gives raw outputs, a `loss` of these and of targets, and `decode`s.

        Args:
            space: of the backbone, for the images.
        """

    def made(self, space: SearchSpace, arch: Arch, num_classes: int) -> nn.Module:
        """The same; where networks of the space have the head, it is theirs."""
        return space.build(arch) if isinstance(space, HeadedSpace) else self.network(space, arch, num_classes)

    def told(self, network: nn.Module) -> str:
        """The network in a few words, before it is trained."""
        return type(network).__name__

    @abstractmethod
    def transform(self, config: Any, image_size: int) -> Joint:
        """How an image and what is on it are augmented, to so many pixels a side."""

    @abstractmethod
    def prepared(self, target: Any, device: torch.device) -> Any:
        """The target of a batch as the network's loss takes it."""

    @abstractmethod
    def compared(self, network: Any, outputs: Any, targets: Iterable[Any]) -> list[Any]:
        """Of each image what is there and what was found, as `of_parts` wants it.

        Args:
            network: or what else knows what its raw `outputs` mean.
            targets: of these images, each asked for once.
        """

    @abstractmethod
    def of_parts(self, compared: Sequence[Any], num_classes: int, parts: Iterable[Sequence[int]]) -> list[float]:
        """`metric` of each of some parts of the images, by their positions among `compared`."""

    @abstractmethod
    def figures(
        self, network: nn.Module, scenes: S, image_size: int, device: torch.device, num_workers: int
    ) -> Figures:
        """What a network in evaluation mode reaches: `metric`, and others for `result.json`."""

    @abstractmethod
    def said(self, figures: Figures) -> str:
        """The figures in a few words, as 'AP 31.2 %, AP50 52.0 %'."""

    @abstractmethod
    def show(self, config: Config, folder: Path, network: nn.Module, data: SceneData[S], result: DenseResult) -> None:
        """Writes the files of a trained network and its page into its folder; `result.json` says what they reach.

        Raises:
            UserError: a file could not be written; all else is.
        """


def load_trained(kind: Kind[Any, Any], folder: Path) -> tuple[nn.Module, DenseResult]:
    """The trained network in evaluation mode, and what is known of it.

    Args:
        folder: of its stage.

    Raises:
        UserError: one of its files is damaged.
    """
    result = read_result(folder)
    space = space_of(result["space"], result["image_size"], len(result["classes"]))
    network = kind.made(space, space.from_json(result["arch"]), len(result["classes"]))
    tensors, _ = load_tensors(folder / WEIGHTS)
    load_module(network, tensors, folder / WEIGHTS)
    return network.eval(), result
