"""The networks of the pruning benchmark, and each trained once: the checkpoint that all methods prune."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import byobnet, mobilevit
from torch import nn

from nas import runs
from nas.data import Data
from nas.runs.checkpoint import load_module, load_tensors, save_tensors
from nas.runs.folders import WEIGHTS
from nas.training.network import make_trainer
from nas.training.recipe import TrainConfig

IMAGE_SIZE = 32


def deit(num_classes: int) -> nn.Module:
    """DeiT (Touvron et al. 2021) with 17 tokens: 6 blocks, 96 channels, 3 heads of 32."""
    shape: dict[str, Any] = {"img_size": IMAGE_SIZE, "patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3}
    return timm.create_model("deit_tiny_patch16_224", num_classes=num_classes, **shape)


def swin(num_classes: int) -> nn.Module:
    """Swin (Liu et al. 2021) with 256 tokens in windows of 16: three stages of two blocks, 32 to 128 channels."""
    shape: dict[str, Any] = {"img_size": IMAGE_SIZE, "patch_size": 2, "window_size": 4, "embed_dim": 32}
    shape |= {"depths": (2, 2, 2), "num_heads": (2, 4, 8)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=num_classes, **shape)


def mobilevit_small(num_classes: int) -> nn.Module:
    """MobileViT-XXS (Mehta and Rastegari 2022) for small images: two strides and a stage fewer, two transformer blocks
    in both stages that have any, which see 16 and 4 positions of each place in a patch."""
    published = mobilevit.model_cfgs["mobilevit_xxs"]
    first, second, third, fourth, _ = published.blocks
    config = replace(published, blocks=(first, replace(second, d=1, s=1), third, _shallow(fourth)), num_features=4 * 64)
    return byobnet.ByobNet(config, num_classes=num_classes)


def _shallow(stage: Any) -> Any:
    downsampling, block = stage
    return downsampling, replace(block, block_kwargs={**block.block_kwargs, "transformer_depth": 2})


NETWORKS = {"deit": deit, "swin": swin, "mobilevit": mobilevit_small}


def train(
    model: nn.Module, config: TrainConfig, folder: Path, data: Data, description: str, image_size: int = IMAGE_SIZE
) -> nn.Module:
    """The trained model, in evaluation mode; a folder that has it is not trained again, one begun goes on."""
    path = folder / WEIGHTS
    if not path.exists():
        trainer = make_trainer(config, folder, image_size, data, model)
        if (folder / "config.json").exists():
            trainer.resume()
        else:
            runs.begin(folder, config)
        trainer.fit(description)
        save_tensors(path, trainer.ema.module.state_dict(), {"epochs": config.epochs})
    load_module(model, load_tensors(path)[0], path)
    return model.cpu().eval()


def trained(name: str, config: TrainConfig, folder: Path, data: Data) -> nn.Module:
    """The network of that name, with the weights that everything begins from."""
    torch.manual_seed(config.seed)
    return train(NETWORKS[name](len(data.classes)), config, folder / name / "base", data, f"train {name}")
