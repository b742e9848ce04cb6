from __future__ import annotations

import gc
import multiprocessing
import pickle
import shutil
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import Images, sources
from nas.data.batches import eval_batches, eval_transform, normalize, train_batches, train_transform
from nas.data.pixels import preprocessing
from nas.distributed.collectives import JobError
from search_spaces import UserError
from tests.nas.data.test_splits import alike, load, make_tar
from tests.nas.tiny import make_images


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return load(make_images(tmp_path / "x")).train


def batches_of(
    images: Images, start: int = 0, num_workers: int = 0, seed: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    transform = train_transform(16, "published", hflip=True)
    return list(
        train_batches(
            images,
            lambda *_: transform,
            steps=alike(images, 8),
            epochs=3,
            seed=seed,
            start=start,
            num_workers=num_workers,
        )
    )


def equal(a: list[tuple[torch.Tensor, torch.Tensor]], b: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


def test_loaders_change_nothing(images: Images) -> None:
    assert equal(batches_of(images), batches_of(images, num_workers=2))


@pytest.mark.parametrize("start", [1, 5, 7, 14, 15])
def test_a_start_at_any_step_gives_the_rest_of_all_batches(images: Images, start: int) -> None:
    assert equal(batches_of(images)[start:], batches_of(images, start=start))


@pytest.mark.parametrize(("image_size", "side"), [(32, 32), (224, 235)])
def test_preprocessing_is_told_as_it_is_done(image_size: int, side: int) -> None:
    assert f"shorter side resized to {side} pixels (bicubic, antialiased)" in preprocessing(image_size)
    assert f"central {image_size} x {image_size} pixels" in preprocessing(image_size)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (301, 420, 3), dtype=np.uint8))
    resized = image.resize((side * 420 // 301, side), Image.Resampling.BICUBIC)
    left, top = round((resized.width - image_size) / 2), round((side - image_size) / 2)
    expected = np.asarray(resized.crop((left, top, left + image_size, top + image_size)))
    assert (np.asarray(eval_transform(image_size)(image)).transpose(1, 2, 0) == expected).all()


def test_every_epoch_has_its_own_order_and_augmentation(images: Images) -> None:
    batches = batches_of(images)
    assert len(batches) == 3 * 5
    assert not equal(batches[:5], batches[5:10])
    assert not equal(batches, batches_of(images, seed=1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_sees_every_image_once_and_unchanged(images: Images, num_workers: int) -> None:
    batches = list(eval_batches(images, 16, 8, num_workers))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 8, 1]
    found = torch.cat([batch for batch, _ in batches])
    assert found.dtype == torch.uint8
    for i in range(len(images)):
        assert (found[i].permute(1, 2, 0).numpy() == np.asarray(images.image(i))).all()
    assert torch.cat([labels for _, labels in batches]).tolist() == images.labels.tolist()


@pytest.mark.parametrize("augment", ["none", "light"])
def test_shares_make_the_batch(images: Images, augment: Any) -> None:
    def batches(share: tuple[int, int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        transform = train_transform(16, augment, hflip=True)
        options: Any = {"steps": alike(images, 8), "epochs": 2, "seed": 0, "start": 3, "num_workers": 0}
        return list(train_batches(images, lambda *_: transform, **options, share=share))

    halves = zip(batches((0, 2)), batches((1, 2)), strict=True)
    joined = [(torch.cat([x, y]), torch.cat([a, b])) for (x, a), (y, b) in halves]
    assert equal(joined, batches((0, 1)))


def test_shares_of_an_evaluation_are_all_images_once(images: Images) -> None:
    shares = [torch.cat([labels for _, labels in eval_batches(images, 16, 8, share=(i, 3))]) for i in range(3)]
    assert [len(share) for share in shares] == [14, 14, 13]
    assert all(share.tolist() == images.labels[i::3].tolist() for i, share in enumerate(shares))


def test_normalization_is_imagenets() -> None:
    x = normalize(torch.full((2, 3, 4, 4), 128, dtype=torch.uint8), torch.device("cpu"))
    expected = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x[0, :, 0, 0], expected)
    assert x.is_contiguous(memory_format=torch.channels_last)


def kill_a_loader() -> None:
    multiprocessing.active_children()[0].kill()


def test_a_killed_loading_process_is_one_line(images: Images) -> None:
    """Wherever the program is when it dies, and the program's own handler of ended processes stays."""
    before = signal.getsignal(signal.SIGCHLD)
    transform = train_transform(16, "light", hflip=True)
    forever: Any = {"steps": alike(images, 8), "epochs": 10**6, "seed": 0, "start": 0}
    batches = train_batches(images, lambda *_: transform, **forever, num_workers=1)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    kill_a_loader()
    time.sleep(0.5)  # torch's own handler would raise here
    with pytest.raises(UserError, match="give fewer --num-workers than 1") as caught:
        for _ in batches:
            pass
    assert "\n" not in str(caught.value)


def test_what_a_signal_raises_while_images_are_read_stays_what_it_is(images: Images) -> None:
    """The end of a job is told from a mistake by its class."""

    def stopped(_: Any) -> Any:
        raise JobError("the job was told to stop")

    with pytest.raises(JobError, match=r"^the job was told to stop$"):
        next(
            train_batches(images, lambda *_: stopped, steps=alike(images, 8), epochs=1, seed=0, start=0, num_workers=0)
        )


def test_loading_processes_that_cannot_start_are_one_line(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", refuse)
    with pytest.raises(
        UserError, match=r"cannot start the loading processes: Too many open files; give fewer --num-workers"
    ):
        list(eval_batches(images, 16, 8, num_workers=3))


def test_a_loader_that_has_half_begun_ends_silently(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started, said = BaseProcess.start, list[BaseProcess](), list[Any]()

    def start_one(process: BaseProcess) -> None:
        if started:
            raise OSError(24, "Too many open files")
        started.append(process)
        start(process)

    monkeypatch.setattr(BaseProcess, "start", start_one)
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with pytest.raises(UserError, match="cannot start the loading processes: Too many open files"):
        list(eval_batches(images, 16, 8, num_workers=2))
    started[0].kill()
    gc.collect()
    assert not said


def test_a_loading_process_at_the_machines_limits_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no image is taken for corrupt."""
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    images = load(make_images(tmp_path / "y")).train

    def refuse(*_: Any) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(sources.Files, "content", refuse)
    for num_workers in (0, 1):
        with pytest.raises(UserError, match=r"^Too many open files; raise the limit") as caught:
            list(eval_batches(images, 16, 8, num_workers))
        assert "\n" not in str(caught.value)
    assert not images.skipped.names


def test_a_tar_too_large_for_memory_is_read_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    tar = make_tar(make_images(tmp_path / "x"), tmp_path / "x.tar")
    shutil.rmtree(tmp_path / "x")
    data = load(tar)
    alone = list(eval_batches(data.train, 16, 4))
    assert equal(alone, list(eval_batches(data.train, 16, 4, num_workers=2)))
    assert not data.train.skipped.names
    sent = pickle.loads(pickle.dumps(data.train))  # noqa: S301 (ours; an open file could not be sent, nor shared)
    assert sent.image(0).tobytes() == data.train.image(0).tobytes()
