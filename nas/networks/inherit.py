"""The supernet of a run, and stand-alone networks with its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn

from nas import runs
from nas.data import Images
from nas.data.batches import eval_batches, normalize
from nas.networks.checkpoints import check_finite
from nas.runs.checkpoint import load_module, load_tensors
from nas.scenes import Scenes
from nas.scenes.batches import eval_scenes
from search_spaces import Arch, UserError
from search_spaces.command.typed import read_typed
from supernet import Supernet, recalibrate

# Images to recalibrate norms on, and of a batch: fewer if they are larger, for all their activations are held at once.
CALIBRATION_IMAGES = 2048
BATCH_SIZE = 256
FULL_PX = 128  # a side, from which on they are larger


class Header(TypedDict):
    """Of `supernet.safetensors`."""

    norm: Literal["width", "shared"]


def load_supernet(folder: Path, device: torch.device) -> Supernet:
    """The finished supernet of a run, in evaluation mode.

    Raises:
        UserError: truncated, or of another space than the run's.
    """
    path = folder / "supernet" / "supernet.safetensors"
    tensors, info = load_tensors(path)
    try:
        norm = read_typed(Header, info, "its header")["norm"]
    except ValueError as error:
        raise UserError(f"{path} is no supernet of this version ({error}); restore it or train again") from None
    supernet = Supernet(runs.load_run_info(folder).search_space(), norm=norm)
    load_module(supernet, tensors, path)
    check_finite(tensors, path)
    return supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def default_calibration(supernet: Supernet) -> int:
    """Training images that the norms of an inherited network are recalibrated on: none if each width has its own."""
    return calibration_default(supernet.space.image_size) if supernet.normalization == "shared" else 0


def calibration_default(image_size: int) -> int:
    """Images of this height and width, in pixels, that are enough to recalibrate norms on: 2048 up to 128 px."""
    return max(BATCH_SIZE, CALIBRATION_IMAGES // _times_larger(image_size))


def _times_larger(image_size: int) -> int:
    return math.ceil((max(image_size, FULL_PX) / FULL_PX) ** 2)


def calibration_count(supernet: Supernet, wanted: int | None) -> int:
    """The number that --calibration-images asks for; UserError for none where norms have no statistics of their own."""
    if wanted == 0 and supernet.normalization == "shared":
        raise UserError(
            "--calibration-images is 0, but the supernet's norms are shared and have no statistics of any network; "
            f"give at least 2, or leave it out for {default_calibration(supernet)}"
        )
    return default_calibration(supernet) if wanted is None else wanted


def calibration_batches(
    images: Images | Scenes, image_size: int, count: int, device: torch.device, num_workers: int = 0
) -> tuple[Tensor, ...]:
    """`calibration_images` on the device, normalized, channels last."""
    found = calibration_images(images, image_size, count, num_workers)
    return tuple(normalize(batch, device, images.normalization) for batch in found)


def calibration_images(
    images: Images | Scenes, image_size: int, count: int, num_workers: int = 0, *, exact: bool = False
) -> tuple[Tensor, ...]:
    """`count` of the (training) images, or all if there are fewer, without the corrupt ones: uint8, on the CPU.

    In whole batches of 256, of fewer if images have more than 128 px (or one smaller): all count alike in the mean of
    their statistics.

    Args:
        exact: not only whole batches, and one image too: for ranges, which are of all images and no mean.

    Raises:
        UserError: a single image, unless `exact`; none can be read.
    """
    if count == 0:
        return ()
    if count == 1 and not exact:
        raise UserError("--calibration-images is 1, which has no variance; give at least 2")
    count = min(count, len(images))
    batch_size = max(BATCH_SIZE // 16, BATCH_SIZE // _times_larger(image_size))
    if count > batch_size and not exact:
        count -= count % batch_size
    read = _readable(images.spread(count), image_size, batch_size, num_workers)
    found = tuple(batch for batch in read if len(batch) > (0 if exact else 1))
    if not found:
        use = "find ranges" if exact else "recalibrate norms"
        raise UserError(f"none of {count} training images to {use} on can be read; see the warnings")
    return found


def _readable(images: Images | Scenes, image_size: int, batch_size: int, num_workers: int) -> Iterator[Tensor]:
    """The images in batches, without the corrupt ones."""
    if isinstance(images, Images):
        for batch, labels in eval_batches(images, image_size, batch_size, num_workers):
            yield batch[labels >= 0]
        return
    for batch, _ in eval_scenes(images, image_size, batch_size, num_workers):
        yield batch[batch.flatten(1).amax(dim=1) > 0]  # corrupt ones are black


def inherited(supernet: Supernet, arch: Arch, calibration: Sequence[Tensor] = ()) -> nn.Module:
    """The network with its slice of the weights, in evaluation mode; its norms recalibrated on the batches, if any."""
    model = supernet.extract(arch).to(memory_format=torch.channels_last)
    return recalibrate(model, calibration) if calibration else model
