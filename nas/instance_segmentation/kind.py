"""Masks of objects, as a kind of what is learned over backbones: Mask R-CNN's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nas.data.batches import normalize
from nas.dense.export import FOLDER, check_written
from nas.dense.kind import PAGE, Figures, Kind
from nas.dense.result import DenseResult, Split, check_classes, typed_figures
from nas.detection.kind import on_device, with_objects
from nas.detection.metric import Seen, average_precisions, of_all_processes
from nas.distributed import process
from nas.instance_segmentation import metric
from nas.instance_segmentation.config import EMBEDDED, PUBLISHED, Config
from nas.instance_segmentation.examples import examples
from nas.instance_segmentation.export import InstanceFiles
from nas.instance_segmentation.page import instances_page
from nas.runs import InstancesRun
from nas.scenes import InstanceScenes, SceneData, load_instances
from nas.scenes.batches import EvalInstances, eval_scenes
from nas.scenes.transforms import Joint, box_train_transform
from search_spaces import Arch, SearchSpace
from search_spaces.command.files import write_json, write_text
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.maskrcnn import FINEST_STRIDE, PUBLISHED_SIZES, Maps, MaskRCNN, Sizes

BATCH_SIZE = 8  # of an evaluation
NUM_COMPARED = 8  # test images that files are compared with PyTorch on


@dataclass(frozen=True)
class Instances(Kind[InstanceScenes, Config]):
    """
    Args:
        sizes: of the networks, as a run's flags say.
    """

    sizes: Sizes = PUBLISHED_SIZES

    stage = "instances"
    metric = "ap"
    metric_label = "mask AP"
    runs = InstancesRun
    config = Config
    published, embedded = PUBLISHED, EMBEDDED

    def load(self, config: Any) -> SceneData[InstanceScenes]:
        """Also raises UserError if a split has no object."""
        return with_objects(load_instances(config.data_config()), config.data)

    def network(self, space: SearchSpace, arch: Arch, num_classes: int) -> MaskRCNN:
        return MaskRCNN(Backbone(space, arch, finest_stride=FINEST_STRIDE), num_classes, self.sizes)

    def told(self, network: nn.Module) -> str:
        strides = ", ".join(map(str, cast(MaskRCNN, network).pyramid.strides))
        return f"Mask R-CNN on maps of strides {strides}"

    def transform(self, config: Any, image_size: int) -> Joint:
        return box_train_transform(image_size, config.augment)

    def prepared(self, target: list[Mapping[str, Tensor]], device: torch.device) -> list[dict[str, Tensor]]:
        return on_device(target, device)

    def compared(self, network: MaskRCNN, outputs: Maps, targets: Iterable[EvalInstances]) -> list[Seen]:
        found = network.decode(outputs)
        return [metric.seen(*pair, network.image_size) for pair in zip(targets, found, strict=True)]

    def of_parts(self, compared: Sequence[Seen], num_classes: int, parts: Iterable[Sequence[int]]) -> list[float]:
        return average_precisions(compared, num_classes, parts, "segm")

    @torch.inference_mode()
    def figures(
        self, network: nn.Module, scenes: InstanceScenes, image_size: int, device: torch.device, num_workers: int
    ) -> Figures:
        model, found = cast(MaskRCNN, network), []
        share = (process.rank(), process.world_size())
        for images, targets in eval_scenes(scenes, image_size, BATCH_SIZE, num_workers, share):
            found += self.compared(model, model(normalize(images, device, scenes.normalization)), targets)
        return dict(metric.figures(of_all_processes(found), len(scenes.classes)))

    def said(self, figures: Figures) -> str:
        parts = (("mask", figures), ("box", figures["boxes"]))
        return "; ".join(
            f"{what} AP {100 * of['ap']:.1f} %, AP50 {100 * of['ap50']:.1f} %, AP75 {100 * of['ap75']:.1f} %"
            for what, of in parts
        )

    def show(
        self, config: Config, folder: Path, network: nn.Module, data: SceneData[InstanceScenes], result: DenseResult
    ) -> None:
        model, path = cast(MaskRCNN, network), folder / "result.json"
        search, test = (read_figures(result, split, path) for split in ("search", "test"))
        pairs = eval_scenes(data.test.spread(NUM_COMPARED), result["image_size"], NUM_COMPARED)
        images = torch.cat([images for images, _ in pairs])
        made = InstanceFiles(model, result, images, search["score"], config.threads)
        files, failed = made.write(folder / FOLDER, config.formats)
        result = {**result, "files": files}
        write_json(path, result)
        shown = examples(model, data.test, result["image_size"], test["score"])
        page = instances_page(folder.parent.name, self.told(model), result, search, test, shown)
        write_text(folder / PAGE, page)
        check_written(failed)


def read_figures(result: DenseResult, split: Split, path: Path) -> metric.InstanceFigures:
    """UserError if these are none, of as many classes as there are."""
    found = typed_figures(metric.InstanceFigures, "masks and boxes", result, split, path)
    for of in (found, found["boxes"]):
        check_classes((len(of["per_class"]), len(of["confusion"]) - 1), result, path)
    return found
