"""What an ONNX file sees in a photo.

    python predict.py photo.jpg
    python predict.py photo.jpg another-model.onnx

Needs onnxruntime, numpy and Pillow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent
MODEL = "model.onnx"
# Pixels of a side of what the network takes, and of the photo's shorter side before its middle is cut out.
IMAGE_SIZE = 224
RESIZED = 235
# Of R, G and B, as shares of white.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def preprocess(photo: Image.Image) -> np.ndarray:
    """The photo as the network takes it: (1, 3, IMAGE_SIZE, IMAGE_SIZE) float32, planes R, G and B.

    Raises:
        ValueError: its pixels have more than 8 bits, of which only who made it knows what is white.
    """
    if photo.mode == "F" or photo.mode.startswith("I"):  # convert() would make all of it white or black
        raise ValueError("the photo has pixels of more than 8 bits: scale its white to 255 first")
    photo = ImageOps.exif_transpose(photo).convert("RGB")
    width, height = (side * RESIZED // min(photo.size) for side in photo.size)
    photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - IMAGE_SIZE) / 2), round((height - IMAGE_SIZE) / 2)
    pixels = np.asarray(photo.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def logits(model: Path, images: np.ndarray) -> np.ndarray:
    """(images, classes). An app makes the session once, not for each photo."""
    session = onnxruntime.InferenceSession(model)
    return np.asarray(session.run(["logits"], {"images": images})[0])


def main(photo: str, model: str = MODEL) -> None:
    classes = (HERE / "classes.txt").read_text(encoding="utf-8").splitlines()
    with Image.open(photo) as image:
        try:
            images = preprocess(image)
        except ValueError as error:
            sys.exit(str(error))
    scores = logits(HERE / model, images)[0]
    exponentials = np.exp(scores - scores.max())
    probabilities = exponentials / exponentials.sum()
    for i in probabilities.argsort()[::-1][:5]:
        print(f"{probabilities[i]:7.2%}  {classes[i]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
