"""What the network of model.py sees in a photo: python predict_timm.py photo.jpg

Needs timm, which brings PyTorch and Pillow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from model import IMAGE_SIZE, MEAN, STD, create_model
from PIL import Image, ImageOps
from timm.data import create_transform
from torch import Tensor

HERE = Path(__file__).parent
MODEL = "model.safetensors"
# What of the photo's shorter side remains once its middle is cut out.
CROP_SHARE = 0.95


def preprocess(photo: Image.Image) -> Tensor:
    """The photo as the network takes it: (1, 3, IMAGE_SIZE, IMAGE_SIZE) float32.

    Raises:
        ValueError: its pixels have more than 8 bits, of which only who made it knows what is white.
    """
    if photo.mode == "F" or photo.mode.startswith("I"):  # convert() would make all of it white or black
        raise ValueError("the photo has pixels of more than 8 bits: scale its white to 255 first")
    transform = create_transform(IMAGE_SIZE, interpolation="bicubic", crop_pct=CROP_SHARE, mean=MEAN, std=STD)
    images: Tensor = transform(ImageOps.exif_transpose(photo).convert("RGB"))[None]
    return images


def main(photo: str) -> None:
    with Image.open(photo) as image:
        try:
            images = preprocess(image)
        except ValueError as error:
            sys.exit(str(error))
    model = create_model()
    timm.models.load_checkpoint(model, str(HERE / MODEL))
    with torch.inference_mode():
        probabilities = model.eval()(images)[0].softmax(0)
    classes = (HERE / "classes.txt").read_text(encoding="utf-8").splitlines()
    for share, i in zip(*probabilities.topk(min(5, len(classes))), strict=True):
        print(f"{share:7.2%}  {classes[i]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
