from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.data import Data, DataConfig, Images, load_data, sources
from nas.data.batches import EpochSteps, StepImages, eval_batches, eval_transform, train_batches
from nas.data.embedded import _scene, written
from nas.data.sources import Skipped
from search_spaces import UserError
from tests.nas.tiny import make_images


def load(data: object, **options) -> Data:
    return load_data(DataConfig(data=str(data), **options))


def alike(images: Images, count: int) -> EpochSteps:
    """Steps of so many images each."""
    return lambda _: [StepImages(16, count)] * (len(images) // count)


def make_tar(folder: Path, path: Path, name: str = ".") -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=name)
    return path


def pixels(images: Images) -> list[bytes]:
    return [images.image(i).tobytes() for i in range(len(images))]


def split_pixels(data: Data) -> list[set[bytes]]:
    return [set(pixels(split)) for split in (data.train, data.search, data.test)]


# ---- sources


def test_the_digits() -> None:
    data = load("digits")
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.search), len(data.test)) == (1222, 216, 359)
    assert data.train.image(0).mode == "RGB" and data.train.image(0).size == (8, 8)


def test_the_digits_in_clutter() -> None:
    data = load("clutter")
    assert data.classes == tuple("0123456789")
    counts = [len(split) for split in (data.train, data.search, data.test)]
    assert sum(counts) == 1797 and counts[1] > 200 and counts[2] > 350
    assert data.train.image(0).mode == "RGB" and data.train.image(0).size == (64, 64)
    assert len(set.union(*split_pixels(data))) == 1797  # no scene is drawn twice
    grey, _ = written()
    assert np.array_equal(_scene(np.random.default_rng(3), grey, 3), _scene(np.random.default_rng(3), grey, 3))


@pytest.mark.parametrize("flags", [{"test_data": "elsewhere"}, {"group_by": "a"}, {"white_level": 9.0}])
def test_flags_that_mean_nothing_for_embedded_images(flags: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no meaning with --data clutter; leave it out"):
        load("clutter", **flags)


def test_a_folder_with_a_folder_for_each_class(tmp_path: Path) -> None:
    data = load(make_images(tmp_path / "flat"))
    assert data.classes == ("blue", "green", "red")
    assert (len(data.train), len(data.search), len(data.test)) == (41, 7, 12)
    brightest = [np.asarray(data.train.image(i)).mean(axis=(0, 1)).argmax() for i in range(41)]
    assert brightest == data.train.labels.tolist()


@pytest.mark.parametrize("beside", ["test", "val", "validation", "Testing"])
@pytest.mark.parametrize("given", ["", "train"])
def test_a_test_split_beside_the_training_data_is_taken(tmp_path: Path, beside: str, given: str) -> None:
    make_images(tmp_path / "train")
    make_images(tmp_path / beside, per_class=4, seed=1)
    data = load(tmp_path / given)
    assert (len(data.train), len(data.search), len(data.test)) == (51, 9, 12)
    assert set(pixels(data.test)) == set.union(*split_pixels(load(tmp_path / beside)))


def test_a_tar_and_a_test_tar_beside_it(tmp_path: Path) -> None:
    make_images(tmp_path / "a")
    make_images(tmp_path / "b", per_class=4, seed=1)
    tar = make_tar(tmp_path / "a", tmp_path / "train.tar")
    carved = load(tar)
    assert carved.classes == ("blue", "green", "red")
    assert split_pixels(carved) == split_pixels(load(tmp_path / "a"))
    make_tar(tmp_path / "b", tmp_path / "test.tar")
    assert (len(load(tar).train), len(load(tar).test)) == (51, 12)
    assert len(load(tar, test_data=str(tmp_path / "a"), allow_duplicates=True).test) == 60
    (tmp_path / "test.tar").unlink()
    with tarfile.open(tmp_path / "outer.tar", "w") as outer:
        for name in ("blue", "green", "red"):
            outer.add(make_tar(tmp_path / "a" / name, tmp_path / f"{name}.tar", name), arcname=f"{name}.tar")
    assert set.union(*split_pixels(load(tmp_path / "outer.tar"))) == set.union(*split_pixels(carved))


def test_splits_by_name_in_a_folder(tmp_path: Path) -> None:
    make_images(tmp_path / "train")
    make_images(tmp_path / "holdout", per_class=4)
    assert len(load(tmp_path, test_split="holdout").test) == 12
    assert len(load(tmp_path, train_split="holdout").test) == 2
    with pytest.raises(UserError, match=r"--train-split trian: there is no folder"):
        load(tmp_path, train_split="trian")
    with pytest.raises(UserError, match=r"--train-split training: there is no folder"):
        load(make_images(tmp_path / "flat"), train_split="training")
    with pytest.raises(UserError, match=r"--test-split tset: there is no"):
        load(tmp_path, test_split="tset")
    with pytest.raises(UserError, match="is both the training and the test data"):
        load(tmp_path, test_split="train")
    with pytest.raises(UserError, match="is both the training and the test data"):
        load(tmp_path, test_data=str(tmp_path / "train"))


def test_labels_of_the_test_split_are_matched_by_name(tmp_path: Path) -> None:
    make_images(tmp_path / "train")
    make_images(tmp_path / "test", per_class=4, classes=("green", "red"))
    assert set(load(tmp_path).test.labels) == {1, 2}
    make_images(tmp_path / "test", per_class=4, classes=("violet",))
    with pytest.raises(UserError, match=r"have classes that the training images lack \(violet\)"):
        load(tmp_path)


def test_torchvision_by_name(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for kind, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in ((f"{kind}-images-idx3-ubyte", images), (f"{kind}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
            (raw / name).write_bytes(header + array.tobytes())
    data = load("torch/fashion_mnist", data_dir=str(tmp_path), test_split="test")
    assert data.classes[9] == "Ankle boot"
    assert (len(data.train), len(data.search), len(data.test)) == (51, 9, 20)
    assert data.test.labels.tolist() == [i % 10 for i in range(20)]
    with pytest.raises(UserError, match="test is both the training and the test data"):
        load("torch/fashion_mnist", data_dir=str(tmp_path), train_split="test", test_split="test")
    with pytest.raises(UserError, match=r"torch/fashion_mnist needs --data-dir"):
        load("torch/fashion_mnist")
    with pytest.raises(UserError, match=r"cannot read torch/mnist: Dataset not found"):
        load("torch/mnist", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"cannot read torch/mnits: Unknown torchvision dataset mnits"):
        load("torch/mnits", data_dir=str(tmp_path))


def test_torchvision_image_folder(tmp_path: Path) -> None:
    make_images(tmp_path / "x")
    assert load("torch/image_folder", data_dir=str(tmp_path / "x")).classes == ("blue", "green", "red")


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_data_in_a_local_folder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    make_images(tmp_path / "photos" / "train")
    make_images(tmp_path / "photos" / "test", per_class=4, seed=1)
    name = f"hfds/{tmp_path / 'photos'}"
    data = load(name, data_dir=str(tmp_path), test_split="test")
    assert data.classes == ("blue", "green", "red")
    assert (len(data.train), len(data.search), len(data.test)) == (51, 9, 12)
    brightest = [np.asarray(data.train.image(i)).mean(axis=(0, 1)).argmax() for i in range(51)]
    assert brightest == data.train.labels.tolist()


def make_shards(folder: Path, corrupt: int | None = None) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard:04d}.tar", "w") as tar:
            for i in range(30):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "png")
                image = buffer.getvalue() if 30 * shard + i != corrupt else b"no image"
                for suffix, content in (("png", image), ("cls", str(i % 3).encode())):
                    info = tarfile.TarInfo(f"{shard}{i:03d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def test_web_dataset_shards(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    make_shards(tmp_path / "shards")
    options = {"data_dir": str(tmp_path / "shards"), "train_split": "train-{0000..0001}.tar"}
    data = load("wds/mine", **options)
    assert data.classes == ("0", "1", "2")
    assert (len(data.train), len(data.search), len(data.test)) == (41, 7, 12)
    assert data.splits == load("wds/mine", **options).splits


def test_a_corrupt_image_of_a_stream_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("webdataset")
    make_shards(tmp_path / "shards", corrupt=41)
    options = {"data_dir": str(tmp_path / "shards"), "train_split": "train-{0000..0001}.tar"}
    data = load("wds/mine", **options)
    assert data.splits.skipped == ("an image after image 41 of the stream",)
    assert "warning: skipped an image after image 41 of the stream" in capsys.readouterr().err
    with pytest.raises(UserError, match="an image after image 41 of the stream cannot be read"):
        load("wds/mine", strict_images=True, **options)


# ---- images as people see them


def save_and_load(tmp_path: Path, image: Image.Image, name: str = "x.png", **options) -> np.ndarray:
    make_images(tmp_path / "set", classes=("a", "b"))
    image.save(tmp_path / "set" / "a" / name, **options)
    data = load(tmp_path / "set")
    found = [np.asarray(s.image(i)) for s in (data.train, data.search, data.test) for i in range(len(s))]
    (match,) = [f for f in found if f.shape != (16, 16, 3)]
    return match


SHAPE = (5, 7)  # height, width: unlike the others


def test_16_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 35).astype(np.uint16).reshape(SHAPE)
    found = save_and_load(tmp_path, Image.fromarray(grey))
    assert (found == (grey >> 8)[..., None]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)).convert(mode)
    name = "x.tif" if mode == "CMYK" else "x.png"
    assert (save_and_load(tmp_path, image, name) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(SHAPE)).convert("P")
    found = save_and_load(tmp_path, image, transparency=bytes(range(35)))
    assert (found == np.asarray(image.convert("RGB"))).all()


def test_photos_are_upright(tmp_path: Path) -> None:
    upright = np.zeros((*SHAPE, 3), dtype=np.uint8)
    upright[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    found = save_and_load(tmp_path, Image.fromarray(np.rot90(upright)), exif=exif)
    assert (found == upright).all()


def test_extensions_in_capitals_and_of_other_formats_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "x", per_class=5)
    for name in ("a.PNG", "b.JPG", "c.webp", "d.bmp"):
        Image.new("RGB", (16, 16)).save(folder / "red" / name)
    (folder / "red" / "._a.png").write_bytes(b"what macOS leaves beside a.png")
    (folder / "red" / "notes.txt").write_text("no image")
    make_images(folder / ".thumbnails")
    data = load(folder)
    assert data.classes == ("blue", "green", "red")
    assert sum(map(len, (data.train, data.search, data.test))) == 19
    assert not data.splits.skipped


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    for parent in ("cats", "dogs"):
        make_images(tmp_path / parent, classes=("indoors", "outdoors"))
    with pytest.raises(UserError, match=r"two folders 'indoors', cats/indoors and dogs/indoors"):
        load(tmp_path, class_depth=2)


# ---- splits


def test_splits_are_disjoint_complete_and_the_same_each_time(tmp_path: Path) -> None:
    data = load(make_images(tmp_path / "x"))
    train, search, test = split_pixels(data)
    assert len(train | search | test) == 60 == len(train) + len(search) + len(test)
    again = load(tmp_path / "x")
    assert split_pixels(again) == [train, search, test]
    assert again.splits == data.splits


def test_a_test_split_of_its_own_is_never_trained_on(tmp_path: Path) -> None:
    make_images(tmp_path / "train")
    make_images(tmp_path / "test", per_class=25, seed=1)
    data = load(tmp_path)
    assert len(data.test) == 75
    assert split_pixels(data)[2] & (split_pixels(data)[0] | split_pixels(data)[1]) == set()


def test_other_seeds_and_fractions_draw_other_splits(tmp_path: Path) -> None:
    make_images(tmp_path / "x")
    first, other = load(tmp_path / "x"), load(tmp_path / "x", split_seed=1)
    assert split_pixels(first)[1] != split_pixels(other)[1]
    assert first.splits.digest != other.splits.digest
    quarter = load(tmp_path / "x", search_fraction=0.25, test_fraction=0.5)
    assert (len(quarter.train), len(quarter.search), len(quarter.test)) == (22, 8, 30)


@pytest.mark.parametrize("held", [True, False], ids=["in memory", "too large for memory"])
def test_changed_data_is_noticed(tmp_path: Path, held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not held:
        monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    folder = make_images(tmp_path / "train")
    make_images(tmp_path / "test", per_class=4)
    digest = load(folder).splits.digest
    (folder / "red" / "0.png").rename(folder / "blue" / "99.png")
    moved = load(folder).splits.digest
    (folder / "blue" / "99.png").rename(folder / "red" / "0.png")
    assert moved != digest == load(folder).splits.digest
    (tmp_path / "test" / "red" / "0.png").rename(tmp_path / "test" / "blue" / "99.png")
    assert load(folder).splits.digest != digest
    (tmp_path / "test" / "blue" / "99.png").rename(tmp_path / "test" / "red" / "0.png")
    assert load(folder).splits.digest == digest
    Image.new("RGB", (16, 16)).save(tmp_path / "test" / "red" / "more.png")
    assert load(folder).splits.digest != digest
    (tmp_path / "test" / "red" / "more.png").unlink()
    if held:
        Image.new("RGB", (16, 16)).save(folder / "red" / "0.png")  # the same name, another image
        assert load(folder).splits.digest != digest


# ---- corrupt images


@pytest.fixture
def with_corrupt(tmp_path: Path) -> Path:
    folder = make_images(tmp_path / "x")
    (folder / "green" / "3.png").write_bytes((folder / "green" / "3.png").read_bytes()[:200])
    (folder / "red" / "7.png").write_bytes(b"")
    return folder


def test_corrupt_images_are_named_counted_and_left_out(with_corrupt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load(with_corrupt)
    assert data.splits.skipped == ("green/3.png", "red/7.png")
    assert sum(map(len, (data.train, data.search, data.test))) == 58
    printed = capsys.readouterr().err
    assert printed.count("warning: skipped") == 2 and "green/3.png" in printed and "red/7.png" in printed


def test_corrupt_images_are_refused_on_demand(with_corrupt: Path) -> None:
    with pytest.raises(UserError, match=r"green/3.png cannot be read .*--strict-images"):
        load(with_corrupt, strict_images=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_corrupt_images_of_a_set_too_large_for_memory(
    with_corrupt: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    data = load(with_corrupt, search_fraction=0.5)
    assert data.splits.skipped == ()  # nothing has been read
    corrupt = {"green/3.png", "red/7.png"}
    for split in (data.train, data.search, data.test):
        readable = sum(split.name(i) not in corrupt for i in range(len(split)))
        assert sum(int((labels >= 0).sum()) for _, labels in eval_batches(split, 16, 8, num_workers)) == readable
    assert set(data.train.skipped.names) == corrupt

    bad = np.array([i for i in range(60) if data.train.source.name(i) in corrupt])
    rows = np.concatenate([bad, data.train.indices[:10]])
    train = Images(data.train.source, rows, data.train.source.labels[rows], data.train.skipped)
    batches = train_batches(
        train, lambda *_: eval_transform(16), steps=alike(train, 6), epochs=2, seed=0, start=0, num_workers=num_workers
    )
    for images, labels in batches:
        assert images.shape == (6, 3, 16, 16) and labels.min() >= 0
    assert capsys.readouterr().err.count("warning: skipped") == 2  # each once

    strict = replace(train, skipped=Skipped(strict=True))
    with pytest.raises(UserError, match=r"cannot be read .*--strict-images") as caught:
        list(
            train_batches(
                strict,
                lambda *_: eval_transform(16),
                steps=alike(train, 6),
                epochs=1,
                seed=0,
                start=0,
                num_workers=num_workers,
            )
        )
    assert "\n" not in str(caught.value)


def test_a_split_of_nothing_but_corrupt_images_ends(with_corrupt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    source = load(with_corrupt).train.source
    bad = np.array([i for i in range(60) if source.name(i) in ("green/3.png", "red/7.png")])
    images = Images(source, bad, source.labels[bad], Skipped(strict=False))
    with pytest.raises(UserError, match="100 images in a row, or all, cannot be read"):
        list(
            train_batches(
                images, lambda *_: eval_transform(16), steps=alike(images, 2), epochs=1, seed=0, start=0, num_workers=0
            )
        )


def test_a_set_of_nothing_but_corrupt_images(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "x", per_class=3)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the images tried in"):
        load(folder)


def test_part_of_a_split_is_spread_over_it() -> None:
    images = load_data(DataConfig()).search
    part = images.spread(20)
    assert len(part) == len(part.labels) == 20
    assert part.indices[0] == images.indices[0] and part.indices[-1] == images.indices[-1]
    assert len(set(part.indices)) == 20 and set(part.indices) < set(images.indices)
    assert part.image(7).tobytes() == images.image(list(images.indices).index(part.indices[7])).tobytes()
    assert list(images.spread(10**6).indices) == list(images.indices)
