"""A frontier evaluated with its common beginnings shared, against every network evaluated alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.data import Images
from nas.data.batches import eval_batches, normalize
from nas.data.sources import Decoded, Skipped
from nas.evaluation.evaluator import Evaluator, Statistics, _Frontier, _statistics
from nas.evaluation.forwards import Forwards
from nas.evaluation.judge import ClassJudge
from nas.evaluation.quantized import quantized
from nas.networks.inherit import calibration_batches, inherited
from search_spaces import Arch, macs
from supernet import Supernet
from supernet.store import Norm
from tests.nas.tiny import random_images, tiny_space
from tests.nas.unreadable import unreadable

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
    return random_images(23, 16)


def logits_alone(
    supernet: Supernet, arch: Arch, images: Images, batch_size: int, calibration: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    model = inherited(supernet, arch, calibration)
    with torch.inference_mode():
        batches = eval_batches(images, SPACE.image_size, batch_size)
        return torch.cat([model(normalize(batch, torch.device("cpu"))) for batch, _ in batches])


@pytest.mark.parametrize(("base", "batch_size"), [("largest", 8), ("random", 23)])
def test_a_shared_prefix_changes_nothing(supernet: Supernet, images: Images, base: str, batch_size: int) -> None:
    arch = SPACE.largest if base == "largest" else SPACE.sample(random.Random(3))
    archs = [action.arch for action in SPACE.slim(arch)]
    evaluator = Evaluator(supernet, ClassJudge(images, SPACE.image_size), batch_size)

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
    found = logits_of_each(Evaluator(supernet, ClassJudge(images, SPACE.image_size), 8), SPACE.largest, archs)
    for arch, logits in zip(archs, found, strict=True):
        assert torch.equal(logits, logits_alone(supernet, arch, images, 8))
    assert len({tuple(logits[0].tolist()) for logits in found}) == len(archs)


# ---- with norms recalibrated


@pytest.mark.parametrize("norm", ["width", "shared"])
def test_each_network_is_recalibrated_as_if_alone(images: Images, norm: Norm) -> None:
    supernet, base = random_supernet(norm), SPACE.sample(random.Random(3))
    archs = [base, *(action.arch for action in SPACE.slim(base)[::2])]
    calibration = calibration_batches(images, SPACE.image_size, 19, CPU)[0].split(8)  # batches of 8, 8 and 3
    evaluator = Evaluator(supernet, ClassJudge(images, SPACE.image_size), 8, calibration=calibration)
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
    evaluator = Evaluator(supernet, ClassJudge(unreadable(images, 23, range(5, 6)), 16), 8)
    assert evaluator.num_images == 22
    rest = np.delete(np.arange(23), 5)
    without = Images(images.source, rest, images.labels[rest], Skipped(strict=False))
    assert evaluator.accuracy(SPACE.largest) == Evaluator(supernet, ClassJudge(without, 16), 8).accuracy(SPACE.largest)


# ---- races


BASE = SPACE.largest
ACTIONS = [action.arch for action in SPACE.slim(BASE)]
GAINS = [1.0 + 3 * (i % 4) for i in range(len(ACTIONS))]


@pytest.fixture(
    params=[pytest.param(64, id="one calibration batch", marks=pytest.mark.heavy), pytest.param(16, id="four")]
)
def racing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    """Of a fresh supernet, whose largest network is right about every image."""
    monkeypatch.setattr("nas.evaluation.evaluator.ROUGH_IMAGES", 0)
    torch.manual_seed(0)
    supernet = Supernet(SPACE, norm="shared").eval()
    rng = np.random.default_rng(0)
    pixels = tuple(rng.integers(0, 256, (160, 16, 16, 3), dtype=np.uint8))

    def labelled(labels: np.ndarray) -> Images:
        return Images(Decoded(pixels, labels, ("a", "b", "c"), ""), np.arange(160), labels, Skipped(strict=False))

    unknown = labelled(np.zeros(160, np.int64))
    batches = calibration_batches(unknown, SPACE.image_size, 64, CPU)[0].split(request.param)
    labels = logits_alone(supernet, BASE, unknown, 32, batches).argmax(dim=1).numpy()
    return Evaluator(supernet, ClassJudge(labelled(labels), SPACE.image_size), 32, calibration=batches)


def test_what_a_race_finishes_is_what_evaluating_alone_gives(racing: Evaluator) -> None:
    finishes = racing.race(BASE, ACTIONS, GAINS)
    alone = [racing.accuracy(arch) for arch in ACTIONS]
    losses = [(1 - accuracy) / gain for accuracy, gain in zip(alone, GAINS, strict=True)]
    assert racing.accuracy(BASE) == 1 and len(set(losses)) > 3
    assert not finishes[losses.index(min(losses))].dropped
    assert sum(finish.dropped for finish in finishes) > len(ACTIONS) / 2
    for finish, accuracy in zip(finishes, alone, strict=True):
        assert finish.dropped or finish.accuracy == accuracy
        assert (finish.rough_images_seen > 0) == (len(racing.calibration) > 1)


def test_a_base_that_is_not_known_is_evaluated_for_the_same_race(racing: Evaluator) -> None:
    finishes = racing.race(BASE, ACTIONS, GAINS)
    then = next(arch for arch, finish in zip(ACTIONS, finishes, strict=True) if not finish.dropped)
    archs = [action.arch for action in SPACE.slim(then)][: len(GAINS)]
    after_a_race = racing.race(then, archs, GAINS[: len(archs)])
    racing._finished = {}
    assert racing.race(then, archs, GAINS[: len(archs)]) == after_a_race


def test_image_forwards_are_the_multiplications_that_run(racing: Evaluator) -> None:
    """Of a few actions: the counter is slow."""
    actions, gains = ACTIONS[::8], GAINS[::8]
    forwards = Forwards(SPACE, racing.num_images, [len(batch) for batch in racing.calibration])
    racing.accuracies(BASE, [BASE])
    with FlopCounterMode(display=False) as counter:
        forwards.add(BASE, actions, racing.race(BASE, actions, gains))
    assert forwards.run * macs(SPACE, BASE) == pytest.approx(counter.get_total_flops() / 2)
    assert forwards.run < forwards.shared < forwards.alone
    with FlopCounterMode(display=False) as counter:
        racing.accuracies(BASE, actions)
    assert forwards.shared * macs(SPACE, BASE) == pytest.approx(counter.get_total_flops() / 2)


@pytest.mark.parametrize("racing", [16], indirect=True)
def test_rough_statistics_are_nearly_those_of_all_batches(racing: Evaluator) -> None:
    with torch.inference_mode():
        frontier = racing._frontier(BASE, [*ACTIONS, BASE])
        racing._calibrate(frontier)
        *of_all, of_base = statistics_of_each(frontier)
        racing._calibrate_roughly(frontier, of_base)
        *rough, base = statistics_of_each(frontier)
        racing.calibration = racing.calibration[:1]
        racing._calibrate(frontier)
        *of_first, _ = statistics_of_each(frontier)
    assert distance(base, of_base) < 1e-4
    for wanted, found, first in zip(of_all, rough, of_first, strict=True):
        assert distance(found, wanted) < 0.7 * distance(first, wanted)
    assert sum(map(distance, rough, of_all)) < 0.2 * sum(map(distance, of_first, of_all))


def statistics_of_each(frontier: _Frontier) -> list[Statistics]:
    return [_statistics(frontier.network(i)) for i in range(len(frontier.starts))]


def distance(found: Statistics, wanted: Statistics) -> float:
    return sum(float((found[key][0] - wanted[key][0]).abs().sum()) for key in wanted)


# ---- in int8


@pytest.mark.parametrize("norm", ["width", "shared"])
def test_in_int8_each_network_answers_as_if_alone(images: Images, norm: Norm) -> None:
    supernet, base = random_supernet(norm), SPACE.sample(random.Random(3))
    archs = [base, *(action.arch for action in SPACE.slim(base)[::3])]
    batches = calibration_batches(images, SPACE.image_size, 16, CPU)[0].split(8)
    calibration = batches if norm == "shared" else ()
    evaluator = Evaluator(
        supernet, ClassJudge(images, SPACE.image_size), 8, calibration=calibration, range_images=batches[:1]
    )
    evaluator.accuracies(base, archs, "int8")
    together = [evaluator._finished[arch, "int8"].answers.margins for arch in archs]
    for arch, margins in zip(archs, together, strict=True):
        model = quantized(inherited(supernet, arch, calibration), batches[:1])
        assert np.array_equal(margins, margins_alone(model, images))
    assert not np.allclose(together[0], margins_alone(inherited(supernet, base, calibration), images), atol=1e-4)


@torch.inference_mode()
def margins_alone(model: torch.nn.Module, images: Images) -> np.ndarray:
    batches = eval_batches(images, SPACE.image_size, 8)
    logits = torch.cat([model(normalize(batch, CPU)) for batch, _ in batches]).numpy()
    right = np.arange(3) == images.labels[:, None]
    return np.asarray(logits[right] - np.where(right, -np.inf, logits).max(axis=1))


def test_a_race_in_int8_is_never_rough(racing: Evaluator) -> None:
    racing.range_images = racing.calibration[:1]
    finishes = racing.race(BASE, ACTIONS, GAINS, "int8")
    assert any(finish.dropped for finish in finishes) and not any(finish.rough_images_seen for finish in finishes)
    found, arch = next((f, arch) for f, arch in zip(finishes, ACTIONS, strict=True) if not f.dropped)
    assert found.accuracy == racing.accuracy(arch, "int8")
