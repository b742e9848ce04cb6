"""Batches of a split: timm's transforms, and loaders that start at any step.

Every random draw of a sample is a function of (seed, epoch, index), so a run continues after a kill exactly where it
was, with any number of loaders.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nas.data import Images
from nas.data.pixels import CORRUPT, crop_share, why_unreadable
from nas.data.sources import Skipped
from nas.data.splits import IMAGENET, Normalization
from search_spaces import UserError

MEAN, STD = IMAGENET.mean, IMAGENET.std
MAX_CORRUPT_RUN = 100  # training images in a row

Augment = Literal["light", "basic", "randaugment", "published", "none"]
Key = tuple[int, int, int]  # epoch, pixels of a side, position in the split
EpochSteps = Callable[[int], "Sequence[StepImages]"]
Corrupt = list[tuple[str, str]]  # (name, reason) of each corrupt image on the way to a sample
Raw = TypeVar("Raw")
Sample = TypeVar("Sample")
Batch = TypeVar("Batch")


class StepImages(NamedTuple):
    """What a step trains on: so many images, of so many pixels a side."""

    size: int
    number: int


def train_transform(image_size: int, augment: Augment, hflip: bool, strength: float = 1.0) -> Any:
    """timm's training transform, to uint8 (3, image_size, image_size).

    `published` is Table 1 of the EfficientFormerV2 supplement as its released code has it: beside RandAugment, timm
    leaves out the colour jitter of 0.4 that both name. Random erasing, mixup and cutmix, by which it differs from
    `randaugment`, are for batches. `basic` is crops of 8 % of the image or more,
    MobileViT's augmentation. `light` (crops of at least 60 %) is for small images.

    Args:
        strength: of RandAugment's operations.
    """
    common: dict[str, Any] = {
        "is_training": True,
        "color_jitter": 0.0,
        "hflip": 0.5 if hflip else 0.0,
        "interpolation": "bicubic",
        "normalize": False,
    }
    if augment in ("published", "randaugment"):
        return create_transform(image_size, **common, auto_augment=f"rand-m{9 * strength:g}-mstd0.5-inc1")
    if augment == "basic":
        return create_transform(image_size, **common)
    if augment == "light":
        return create_transform(image_size, **common, scale=(0.6, 1.0))
    return eval_transform(image_size)


def eval_transform(image_size: int) -> Any:
    """timm's evaluation transform, to uint8."""
    crop = crop_share(image_size)
    return create_transform(image_size, is_training=False, crop_pct=crop, interpolation="bicubic", normalize=False)


def normalize(images: Tensor, device: torch.device, to: Normalization = IMAGENET) -> Tensor:
    """uint8 (B, 3, H, W) to float32 with this mean and deviation, channels last, on the device."""
    x = images.to(device, non_blocking=True).float()
    mean = torch.tensor(to.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(to.std, device=device).view(1, 3, 1, 1) * 255
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def seed_all(*parts: int) -> None:
    """Seeds Python, NumPy and torch from integers, for libraries that draw from the global generators."""
    torch.manual_seed(_seed_cpu(*parts))


def _seed_cpu(*parts: int) -> int:
    """The same without accelerators, whose seeding would take most of an image's time."""
    state = int(np.random.SeedSequence(parts).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)  # noqa: NPY002
    torch.default_generator.manual_seed(state)
    return state


class Positions(Protocol):
    """Images by position, of which some may be corrupt."""

    @property
    def skipped(self) -> Skipped: ...

    def __len__(self) -> int: ...

    def name(self, position: int) -> str: ...


class Samples(ABC, Dataset[tuple[Sample, Corrupt]], Generic[Raw, Sample]):
    """Samples by key, each a function of (seed, key). A corrupt image is replaced by the next, or by a blank.

    Args:
        replace: by the next, as in training.
    """

    def __init__(self, images: Positions, seed: int, replace: bool) -> None:
        self.images, self.seed, self.replace = images, seed, replace
        self.attempts = min(len(images), MAX_CORRUPT_RUN) if replace else 1

    @abstractmethod
    def read(self, position: int) -> Raw:
        """What lies there; raises CORRUPT."""

    @abstractmethod
    def sample(self, raw: Raw, key: Key) -> Sample:
        """What a batch is made of; torch's, NumPy's and Python's generators are seeded."""

    @abstractmethod
    def blank(self, key: Key) -> Sample:
        """In place of what cannot be read: an evaluation does not count it."""

    def __getitem__(self, key: Key) -> tuple[Sample, Corrupt]:
        epoch, _, first = key
        _seed_cpu(self.seed, epoch, first)
        corrupt: Corrupt = []
        for attempt in range(self.attempts):
            position = (first + attempt) % len(self.images)
            try:
                raw = self.read(position)
            except CORRUPT as error:
                corrupt.append((self.images.name(position), why_unreadable(error)))
            else:
                return self.sample(raw, key), corrupt
        return self.blank(key), corrupt


class _Labelled(Samples[tuple[Image.Image, int], tuple[Tensor, int]]):
    """Transformed images and their labels; a blank has no class: label -1.

    Args:
        transform: of an epoch, to so many pixels.
    """

    images: Images

    def __init__(self, images: Images, transform: Callable[[int, int], Any], seed: int, replace: bool) -> None:
        super().__init__(images, seed, replace)
        self.transform = cache(transform)

    def read(self, position: int) -> tuple[Image.Image, int]:
        return self.images.image(position), int(self.images.labels[position])

    def sample(self, raw: tuple[Image.Image, int], key: Key) -> tuple[Tensor, int]:
        image, label = raw
        return self.transform(*key[:2])(image), label

    def blank(self, key: Key) -> tuple[Tensor, int]:
        return self.transform(*key[:2])(Image.new("RGB", (8, 8))), -1


class TrainKeys:
    """Keys of the batches from step `start` to the end of the last epoch; of each, the part (number, of how many)."""

    def __init__(
        self, num_images: int, steps: EpochSteps, epochs: int, seed: int, start: int, share: tuple[int, int]
    ) -> None:
        self.num_images, self.steps, self.seed = num_images, steps, seed
        self.epochs, self.start, self.share = epochs, start, share

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = len(self.steps(0))
        number, shares = self.share
        for epoch in range(self.start // per_epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
            begin = 0
            for step, (size, images) in enumerate(self.steps(epoch), start=epoch * per_epoch):
                part = images // shares
                first = begin + number * part
                if step >= self.start:
                    yield [(epoch, size, int(i)) for i in order[first : first + part]]
                begin += images


def train_batches(
    images: Images,
    transform: Callable[[int, int], Any],
    *,
    steps: EpochSteps,
    epochs: int,
    seed: int,
    start: int,
    num_workers: int,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images, labels) of every step from `start` on.

    Args:
        transform: of an epoch, to so many pixels a side.
        steps: of an epoch; equally many in each, of no more images than there are.
        share: (number, of how many): which of so many equal parts of each batch.

    Raises:
        UserError: 100 images in a row are corrupt.
    """
    keys = TrainKeys(len(images), steps, epochs, seed, start, share)
    yield from load_batches(_Labelled(images, transform, seed, replace=True), keys, num_workers, _collate)


def eval_batches(
    images: Images, image_size: int, batch_size: int, num_workers: int = 0, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images, labels) of the whole split in order; a corrupt image is black and has label -1.

    Args:
        share: (first, step): only every so many-th image.
    """
    transform = eval_transform(image_size)
    keys = eval_keys(len(images), image_size, batch_size, share)
    yield from load_batches(_Labelled(images, lambda *_: transform, 0, replace=False), keys, num_workers, _collate)


def eval_keys(num_images: int, image_size: int, batch_size: int, share: tuple[int, int]) -> list[list[Key]]:
    """Keys of the batches of a whole split in order, or of every so many-th image: share is (first, step)."""
    positions = range(share[0], num_images, share[1])
    return [[(0, image_size, i) for i in positions[b : b + batch_size]] for b in range(0, len(positions), batch_size)]


def load_batches(
    samples: Samples[Any, Sample],
    keys: Iterable[list[Key]],
    num_workers: int,
    collate: Callable[[Sequence[Sample]], Batch],
) -> Iterator[Batch]:
    """A batch for each list of keys, made by `collate`, on so many loading processes; corrupt images are told.

    Raises:
        UserError: where corrupt images are replaced, 100 of them follow one another; the loading processes fail.
    """
    loader = DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=num_workers,
        collate_fn=partial(_with_corrupt, collate),
        worker_init_fn=_leave_talking_to_the_parent,
        pin_memory=torch.cuda.is_initialized(),  # and not merely there: work on the CPU leaves GPUs alone
    )
    for batch, corrupt in _loaded(loader):
        for name, reason in chain(*corrupt):
            samples.images.skipped.add(name, reason)
        if samples.replace and max(map(len, corrupt)) == samples.attempts:
            raise UserError(f"{MAX_CORRUPT_RUN} images in a row, or all, cannot be read; see the warnings")
        yield batch


def _with_corrupt(
    collate: Callable[[Sequence[Sample]], Batch], found: Sequence[tuple[Sample, Corrupt]]
) -> tuple[Batch, list[Corrupt]]:
    samples, corrupt = zip(*found, strict=True)
    return collate(samples), list(corrupt)


def _loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches.

    Raises:
        UserError: the loading processes cannot be started, or one of them dies or raises one.
    """
    fewer = f"give fewer --num-workers than {loader.num_workers} (0 loads in this process)"
    try:
        with _torch_raises_only_here():
            batches = iter(loader)
    except OSError as error:
        _forget(error)
        raise UserError(f"cannot start the loading processes: {error.strerror}; {fewer}") from None
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except UserError as error:
            if "\n" not in str(error):  # of this process, such as that a signal ends the job
                raise
            # of a loading process, with its traceback
            raise UserError(str(error).splitlines()[-1].rpartition("UserError: ")[2]) from None
        except (RuntimeError, OSError) as error:
            if not any(sign in str(error) for sign in _DEAD_LOADER):
                raise
            reason = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
            raise UserError(f"{reason}; it ran out of memory, of /dev/shm or of open files: {fewer}") from None
        yield batch


# What torch says of a loading process that was killed, or cannot hand over what it has read.
_DEAD_LOADER = ("DataLoader worker", "shared memory", "ancdata", "Too many open files", "Connection reset by peer")


def _forget(error: BaseException) -> None:
    """Frees what the error's frames hold: the end of a loader that has not quite begun is an error too, on stderr."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


@contextmanager
def _torch_raises_only_here() -> Iterator[None]:
    """Keeps the handler of ended processes: torch's raises wherever the program is, and the loader looks itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _collate(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)


def _leave_talking_to_the_parent(_: int) -> None:
    """Ctrl-C and torchrun's SIGTERM reach all, and what goes wrong in a loading process is sent to the parent."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (as long as the process lives)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
