"""A frontier evaluated with its common beginnings shared, against every network evaluated alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import pytest
import torch

from nas.batches import eval_batches, normalize
from nas.data import Images
from nas.evaluator import Evaluator
from nas.inherit import calibration_batches, inherited
from nas.sources import Decoded, Skipped
from search_spaces import Arch
from supernet import Supernet
from supernet.store import Norm
from tests.nas.tiny import tiny_space

SPACE = tiny_space()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return random_supernet("width")


def random_supernet(norm: Norm) -> Supernet:
    torch.manual_seed(0)
    net = Supernet(SPACE, norm=norm)
    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if tensor.is_floating_point() and tensor.ndim == 1:  # norms: as different as training makes them
                tensor.copy_(
                    torch.rand(tensor.shape) + 0.5 if "var" in name or "weight" in name else torch.randn(tensor.shape)
                )
    return net.eval()


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 23)
    pixels = tuple(rng.integers(0, 256, (23, 16, 16, 3), dtype=np.uint8))
    return Images(Decoded(pixels, labels, ("a", "b", "c"), ""), np.arange(23), labels, Skipped(strict=False))


def logits_alone(
    supernet: Supernet, arch: Arch, images: Images, batch_size: int, calibration: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    model = inherited(supernet, arch, calibration)
    with torch.inference_mode():
        batches = eval_batches(images, SPACE.image_size, batch_size)
        return torch.cat([model(normalize(batch, torch.device("cpu"))) for batch, _ in batches])


@pytest.mark.parametrize("base", ["largest", "random"])
@pytest.mark.parametrize("batch_size", [8, 23])
def test_a_shared_prefix_changes_nothing(supernet: Supernet, images: Images, base: str, batch_size: int) -> None:
    arch = SPACE.largest if base == "largest" else SPACE.sample(random.Random(3))
    archs = [action.arch for action in SPACE.slim(arch)]
    evaluator = Evaluator(supernet, images, SPACE.image_size, batch_size)

    together = evaluator.accuracies(arch, archs)
    shared = evaluator.block_forwards
    assert together == [evaluator.accuracy(a) for a in archs]
    assert shared < evaluator.block_forwards - shared

    labels = torch.tensor(images.labels)
    for a, found in zip(archs, together, strict=True):
        assert found == int((logits_alone(supernet, a, images, batch_size).argmax(dim=1) == labels).sum()) / 23


def logits_of_each(evaluator: Evaluator, base: Arch, archs: Sequence[Arch]) -> list[torch.Tensor]:
    """Of each arch evaluated with the base alone, as its accuracy hides much."""
    outputs: list[torch.Tensor] = []
    run = Evaluator._run

    def recording(module, x):
        result = run(evaluator, module, x)
        if result.ndim == 2:
            outputs.append(result)
        return result

    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "_run", recording)
        for arch in archs:
            outputs.clear()
            evaluator.accuracies(base, [arch])
            found.append(torch.cat(outputs))
    return found


def test_logits_are_those_of_the_extracted_network(supernet: Supernet, images: Images) -> None:
    archs = [action.arch for action in SPACE.slim(SPACE.largest)]
    found = logits_of_each(Evaluator(supernet, images, SPACE.image_size, 8), SPACE.largest, archs)
    for arch, logits in zip(archs, found, strict=True):
        assert torch.equal(logits, logits_alone(supernet, arch, images, 8))
    assert len({tuple(logits[0].tolist()) for logits in found}) == len(archs)


# ---- with norms recalibrated


@pytest.mark.parametrize("norm", ["width", "shared"])
def test_each_network_is_recalibrated_as_if_alone(images: Images, norm: Norm) -> None:
    supernet, base = random_supernet(norm), SPACE.sample(random.Random(3))
    archs = [base, *(action.arch for action in SPACE.slim(base)[::2])]
    calibration = calibration_batches(images, SPACE.image_size, 19, CPU)[0].split(8)  # batches of 8, 8 and 3
    evaluator = Evaluator(supernet, images, SPACE.image_size, 8, calibration=calibration)
    labels = torch.tensor(images.labels)

    together = evaluator.accuracies(base, archs)
    assert evaluator.block_forwards == (23 + 19) * blocks_run(base, archs)
    each = logits_of_each(evaluator, base, archs)
    for arch, found, logits in zip(archs, together, each, strict=True):
        assert torch.equal(logits, logits_alone(supernet, arch, images, 8, calibration))
        assert found == int((logits.argmax(dim=1) == labels).sum()) / 23
    assert evaluator.accuracies(base, archs) == together, "nothing is left of what was measured before"
    assert not torch.allclose(each[0], logits_alone(supernet, base, images, 8))


def blocks_run(base: Arch, archs: Sequence[Arch]) -> int:
    """Blocks of the common beginnings once, and of each arch those that follow its own."""
    trunk, count, longest = SPACE.lower(base), 0, 0
    for arch in archs:
        blocks = SPACE.lower(arch)
        shared = len([1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(trunk, blocks, strict=False))])
        count, longest = count + len(blocks) - shared, max(longest, shared)
    return count + longest


def test_a_corrupt_image_does_not_count(supernet: Supernet, images: Images) -> None:
    class Broken(Decoded):
        def image(self, position: int):
            if position == 5:
                raise OSError("no image")
            return super().image(position)

    assert isinstance(images.source, Decoded)
    source = Broken(images.source.pixels, images.labels, ("a", "b", "c"), "")
    evaluator = Evaluator(supernet, Images(source, images.indices, images.labels, Skipped(strict=False)), 16, 8)
    assert evaluator.num_images == 22
    rest = np.delete(np.arange(23), 5)
    without = Images(images.source, rest, images.labels[rest], Skipped(strict=False))
    assert evaluator.accuracy(SPACE.largest) == Evaluator(supernet, without, 16, 8).accuracy(SPACE.largest)
