"""Masks, as a kind of what is learned over backbones: DeepLabv3's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.data.batches import EpochSteps
from nas.dense.export import FOLDER
from nas.dense.kind import Figures, Kind
from nas.dense.result import DenseResult
from nas.distributed import process
from nas.scenes import MaskScenes, SceneData, load_masks
from nas.scenes.batches import MaskBatch, eval_mask_batches, train_mask_batches
from nas.scenes.transforms import mask_train_transform
from nas.segmentation.config import Config, suited
from nas.segmentation.examples import examples
from nas.segmentation.export import SegmenterFiles
from nas.segmentation.metric import confusion
from nas.segmentation.page import segment_page
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command.files import write_json, write_text
from search_spaces.dense.backbone import Backbone
from search_spaces.dense.deeplab import DeepLabV3
from search_spaces.dense.plans import OUTPUT_STRIDE

NUM_COMPARED = 8  # test images that files are compared with PyTorch on


class Segmentation(Kind[MaskScenes, Config]):
    stage = "segment"
    metric = "miou"
    metric_label = "mIoU"
    may_move = ("data", "masks", "annotations", "test_data", "test_masks", "test_annotations", "classes")
    config = Config

    def suited(self, config: Config) -> Config:
        return suited(config)

    def load(self, config: Config) -> SceneData[MaskScenes]:
        return load_masks(config.data_config())

    def network(self, space: SearchSpace, arch: Arch, num_classes: int) -> DeepLabV3:
        return DeepLabV3(dense_backbone(space, arch), num_classes)

    def batches(self, scenes: MaskScenes, config: Config, steps: EpochSteps, start: int) -> Iterator[MaskBatch]:
        @cache
        def transform(_: int, size: int) -> Any:
            return mask_train_transform(size, config.augment)

        return train_mask_batches(
            scenes,
            transform,
            steps=steps,
            epochs=config.epochs,
            seed=config.seed,
            start=start,
            num_workers=config.num_workers,
            share=(process.rank(), process.world_size()),
        )

    def prepared(self, target: Tensor, device: torch.device) -> Tensor:
        return target.to(device, non_blocking=True).long()

    def figures(
        self, network: nn.Module, scenes: MaskScenes, image_size: int, device: torch.device, num_workers: int
    ) -> Figures:
        found = confusion(network, scenes, image_size, device, num_workers)
        return {
            "miou": found.miou,
            "pixel_accuracy": found.pixel_accuracy,
            "iou": found.iou,
            "confusion": found.counts.tolist(),
        }

    def said(self, figures: Figures) -> str:
        return f"mIoU {100 * figures['miou']:.1f} %, {100 * figures['pixel_accuracy']:.1f} % of the pixels"

    def show(
        self, config: Config, folder: Path, network: nn.Module, data: SceneData[MaskScenes], result: DenseResult
    ) -> None:
        assert isinstance(network, DeepLabV3)
        pairs = eval_mask_batches(data.test.spread(NUM_COMPARED), result["image_size"], NUM_COMPARED)
        images = torch.cat([images for images, _ in pairs])
        writer = SegmenterFiles(network, result, images, config.threads)
        result["files"] = writer.write(folder / FOLDER, config.formats)
        write_json(folder / "result.json", result)
        shown = examples(network, data.test, result["image_size"])
        write_text(folder / "report.html", segment_page(folder.parent.name, self.told(network), result, shown))

    def told(self, network: nn.Module) -> str:
        assert isinstance(network, DeepLabV3)
        return f"DeepLabv3 on maps of stride {network.backbone.strides[-1]}"


def dense_backbone(space: SearchSpace, arch: Arch) -> Backbone:
    """At output stride 16, as published, or with the network's own strides if it cannot have that."""
    try:
        return Backbone(space, arch, OUTPUT_STRIDE)
    except UserError:
        return Backbone(space, arch)
