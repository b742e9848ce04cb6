"""Boxes, as a kind of what is learned over backbones: SSDLite's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from nas.data.batches import normalize
from nas.dense.export import FOLDER, check_written
from nas.dense.kind import PAGE, Figures, Kind
from nas.dense.result import DenseResult, Split, check_classes, typed_figures
from nas.detection import metric
from nas.detection.config import EMBEDDED, PUBLISHED, Config
from nas.detection.examples import examples
from nas.detection.export import DetectorFiles
from nas.detection.metric import Pair, average_precisions
from nas.detection.page import report_page
from nas.distributed import process
from nas.runs import BoxesRun
from nas.scenes import BoxScenes, SceneData, Scenes, load_boxes
from nas.scenes.batches import EvalBoxes, eval_scenes
from nas.scenes.transforms import Joint, box_train_transform
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command.files import write_json, write_text
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.ssdlite import Boxes, SSDLite

S = TypeVar("S", bound=Scenes)
BATCH_SIZE = 32  # of an evaluation


class Detection(Kind[BoxScenes, Config]):
    stage = "detect"
    metric = "ap"
    metric_label = "AP"
    runs = BoxesRun
    config = Config
    published, embedded = PUBLISHED, EMBEDDED

    def load(self, config: Any) -> SceneData[BoxScenes]:
        """Also raises UserError if a split has no object."""
        return with_objects(load_boxes(config.data_config()), config.data)

    def network(self, space: SearchSpace, arch: Arch, num_classes: int) -> SSDLite:
        return SSDLite(Backbone(space, arch), num_classes)

    def transform(self, config: Any, image_size: int) -> Joint:
        return box_train_transform(image_size, config.augment)

    def prepared(self, target: list[Mapping[str, Tensor]], device: torch.device) -> list[dict[str, Tensor]]:
        return on_device(target, device)

    def compared(self, network: Boxes, outputs: Any, targets: Iterable[EvalBoxes]) -> list[Pair]:
        size = network.image_size
        return [Pair(*pair, size) for pair in zip(targets, network.decode(outputs), strict=True)]

    def of_parts(self, compared: Sequence[Pair], num_classes: int, parts: Iterable[Sequence[int]]) -> list[float]:
        return average_precisions([pair.seen() for pair in compared], num_classes, parts)

    @torch.inference_mode()
    def figures(
        self, network: nn.Module, scenes: BoxScenes, image_size: int, device: torch.device, num_workers: int
    ) -> Figures:
        detector = cast(SSDLite, network)
        found: list[metric.Seen] = []
        share = (process.rank(), process.world_size())
        for images, targets in eval_scenes(scenes, image_size, BATCH_SIZE, num_workers, share):
            outputs = detector(normalize(images, device, scenes.normalization))
            found += [pair.seen() for pair in self.compared(detector, outputs, targets)]
        return dict(metric.figures(metric.of_all_processes(found), len(scenes.classes)))

    def said(self, figures: Figures) -> str:
        return ", ".join(f"{label} {100 * figures[name]:.1f} %" for name, label in SAID.items())

    def show(
        self, config: Config, folder: Path, network: nn.Module, data: SceneData[BoxScenes], result: DenseResult
    ) -> None:
        detector, path = cast(SSDLite, network), folder / "result.json"
        search, test = (read_figures(result, split, path) for split in ("search", "test"))
        files, failed = DetectorFiles(detector, result, search["score"], config.threads).write(
            folder / FOLDER, config.formats
        )
        result = {**result, "files": files}
        write_json(path, result)
        shown = examples(detector, data.test, result["image_size"])
        write_text(folder / PAGE, report_page(folder.parent.name, result, search, test, shown))
        check_written(failed)


def with_objects(data: SceneData[S], where: str) -> SceneData[S]:
    """The data; UserError if a split has no object: nothing would be learned, or measured."""
    for name, part in (("training", data.train), ("search", data.search), ("test", data.test)):
        if not part.present.any():
            raise UserError(
                f"{where}: none of the {len(part)} images of the {name} split has an object (crowds do not count); "
                "give more images, or another --split-seed"
            )
    return data


def on_device(target: Sequence[Mapping[str, Tensor]], device: torch.device) -> list[dict[str, Tensor]]:
    return [{name: tensor.to(device, non_blocking=True) for name, tensor in one.items()} for one in target]


def read_figures(result: DenseResult, split: Split, path: Path) -> metric.ObjectFigures:
    """UserError if these are none, of as many classes as there are."""
    found = typed_figures(metric.ObjectFigures, "boxes", result, split, path)
    check_classes((len(found["per_class"]), len(found["confusion"]) - 1), result, path)
    return found


SAID = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}
