"""Masks, as a kind of what is learned over backbones: DeepLabv3's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nas.dense.export import FOLDER, check_written
from nas.dense.kind import PAGE, Figures, Kind
from nas.dense.result import DenseResult, Split, check_classes, typed_figures
from nas.runs import MasksRun
from nas.scenes import MaskScenes, SceneData, load_masks
from nas.scenes.batches import eval_scenes
from nas.scenes.transforms import Joint, mask_train_transform
from nas.segmentation.config import EMBEDDED, PUBLISHED, Config
from nas.segmentation.examples import examples
from nas.segmentation.export import SegmenterFiles
from nas.segmentation.metric import MaskFigures, PixelConfusion, confusion, of_image, together
from nas.segmentation.page import segment_page
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command.files import write_json, write_text
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.deeplab import DeepLabV3, Pixels
from search_spaces.dense.plans import OUTPUT_STRIDE

NUM_COMPARED = 8  # test images that files are compared with PyTorch on


class Segmentation(Kind[MaskScenes, Config]):
    stage = "segment"
    metric = "miou"
    metric_label = "mIoU"
    runs = MasksRun
    config = Config
    published, embedded = PUBLISHED, EMBEDDED

    def load(self, config: Any) -> SceneData[MaskScenes]:
        return load_masks(config.data_config())

    def network(self, space: SearchSpace, arch: Arch, num_classes: int) -> DeepLabV3:
        return DeepLabV3(dense_backbone(space, arch), num_classes)

    def transform(self, config: Any, image_size: int) -> Joint:
        return mask_train_transform(image_size, config.augment)

    def prepared(self, target: Tensor, device: torch.device) -> Tensor:
        return target.to(device, non_blocking=True).long()

    def compared(self, network: Pixels, outputs: Tensor, targets: Iterable[Tensor]) -> list[PixelConfusion]:
        return [of_image(*pair) for pair in zip(outputs, targets, strict=True)]

    def of_parts(
        self, compared: Sequence[PixelConfusion], num_classes: int, parts: Iterable[Sequence[int]]
    ) -> list[float]:
        return [together([compared[i] for i in part], num_classes).miou for part in parts]

    def figures(
        self, network: nn.Module, scenes: MaskScenes, image_size: int, device: torch.device, num_workers: int
    ) -> Figures:
        return dict(confusion(network, scenes, image_size, device, num_workers).figures)

    def said(self, figures: Figures) -> str:
        return f"mIoU {100 * figures['miou']:.1f} %, {100 * figures['pixel_accuracy']:.1f} % of the pixels"

    def show(
        self, config: Config, folder: Path, network: nn.Module, data: SceneData[MaskScenes], result: DenseResult
    ) -> None:
        segmenter, path = cast(DeepLabV3, network), folder / "result.json"
        search, test = (read_figures(result, split, path) for split in ("search", "test"))
        pairs = eval_scenes(data.test.spread(NUM_COMPARED), result["image_size"], NUM_COMPARED)
        images = torch.cat([images for images, _ in pairs])
        files, failed = SegmenterFiles(segmenter, result, images, config.threads).write(folder / FOLDER, config.formats)
        result = {**result, "files": files}
        write_json(path, result)
        shown = examples(segmenter, data.test, result["image_size"])
        page = segment_page(folder.parent.name, self.told(segmenter), result, search, test, shown)
        write_text(folder / PAGE, page)
        check_written(failed)

    def told(self, network: nn.Module) -> str:
        return f"DeepLabv3 on maps of stride {cast(DeepLabV3, network).backbone.strides[-1]}"


def read_figures(result: DenseResult, split: Split, path: Path) -> MaskFigures:
    """UserError if these are none, of as many classes as there are."""
    found = typed_figures(MaskFigures, "masks", result, split, path)
    check_classes((len(found["iou"]), len(found["confusion"]), *map(len, found["confusion"])), result, path)
    return found


def dense_backbone(space: SearchSpace, arch: Arch) -> Backbone:
    """At output stride 16, as published, or with the network's own strides if it cannot have that."""
    try:
        return Backbone(space, arch, OUTPUT_STRIDE)
    except UserError:
        return Backbone(space, arch)
