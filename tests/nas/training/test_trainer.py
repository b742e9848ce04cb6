from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.data import Data, Images, Splits
from nas.runs import checkpoint
from nas.runs.checkpoint import load_module, load_tensors, save_tensors
from nas.runs.metrics import read_metrics
from nas.training import precision
from nas.training import trainer as loop
from nas.training.precision import pick_amp
from nas.training.recipe import TrainConfig
from nas.training.task import Classification
from nas.training.trainer import Trainer
from search_spaces import UserError
from tests.nas.tiny import random_images

CONFIG = TrainConfig(
    epochs=3, batch_size=4, lr=1.0, warmup_epochs=1.0, clip_grad=1.0, clip_mode="norm", amp="off", checkpoint_seconds=0
)
CPU = torch.device("cpu")


@pytest.fixture
def images() -> Images:
    return random_images(20, 16)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))


def make(
    folder: Path, images: Images, config: TrainConfig = CONFIG, image_size: int = 16, spoil: Any = None
) -> Trainer:
    """A trainer of a small network; `spoil(step, loss)` changes the loss."""
    model = (
        small_model() if image_size == 16 else nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    )

    def step(x: Tensor, target: Tensor, number: int, criterion: loop.Criterion, backward: loop.Backward) -> Tensor:
        loss = criterion(model(x), target)
        loss = spoil(number, loss) if spoil else loss
        backward(loss)
        return loss.detach()

    return Trainer(model, task_of(images, config, image_size), config, folder, step, lambda ema: {"accuracy": 0.5})


def task_of(images: Images, config: TrainConfig, image_size: int) -> Classification:
    return Classification(data_of(images), config, image_size, CPU)


def data_of(images: Images) -> Data:
    return Data(images, images, images, ("a", "b", "c"), Splits(len(images), len(images), len(images), (), ""))


def state(trainer: Trainer) -> dict[str, Tensor]:
    return {**trainer.model.state_dict(), **{f"ema.{n}": t for n, t in trainer.ema.module.state_dict().items()}}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# ---- checkpoints


@pytest.mark.parametrize("augment", ["light", "published"])
@pytest.mark.parametrize("stop", [1, 4, 5, 11, 14])
def test_resumed_at_any_step_equals_uninterrupted(tmp_path: Path, images: Images, stop: int, augment: Any) -> None:
    config = replace(CONFIG, augment=augment)
    whole = make(tmp_path / "whole", images, config)
    whole.fit("")

    def stopping(number: int, loss: Tensor) -> Tensor:
        if number == stop:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "r", images, config, spoil=stopping).fit("")
    resumed = make(tmp_path / "r", images, config)
    resumed.resume()
    assert resumed.step == stop
    resumed.fit("")
    assert equal(state(resumed), state(whole))
    assert equal(load_tensors(resumed.path)[0], load_tensors(whole.path)[0])


def stopped(folder: Path, images: Images, at: int, config: TrainConfig = CONFIG) -> None:
    """Trains up to that step, or goes on to it."""

    def stop(number: int, loss: Tensor) -> Tensor:
        if number == at:
            raise KeyboardInterrupt
        return loss

    trainer = make(folder, images, config, spoil=stop)
    trainer.resume()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit("")


def test_a_training_can_be_shortened(tmp_path: Path, images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    """From the checkpoint on it goes as if it had been planned so; killed once more, too."""
    short = replace(CONFIG, epochs=2)
    ends = []
    for name, stops in (("once", ()), ("twice", (8,))):
        stopped(tmp_path / name, images, 6)
        for step in stops:
            stopped(tmp_path / name, images, step, short)
        trainer = make(tmp_path / name, images, short)
        capsys.readouterr()
        trainer.resume()
        said = f"{tmp_path / name} ends after 2 epochs instead of 3; 1.2 are trained" in capsys.readouterr().out
        assert said is not bool(stops)
        trainer.fit("")
        assert (trainer.step, trainer.planned_epochs) == (10, 3)
        ends.append(state(trainer))
    assert equal(*ends)
    make(tmp_path / "whole", images, short).fit("")
    lines, planned = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("once", "whole"))
    assert [(line["step"], line["epochs"]) for line in lines] == [(5, 3), (10, 2)]
    assert lines[-1]["lr"] == planned[-1]["lr"], "the schedule ends there"


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        (1, "--epochs 1: .* has trained 1.2 of 3 epochs, .*; give 2 to 3, or train anew"),
        (4, "--epochs 4: .* has trained 1.2 of 3 epochs, and its learning rate has fallen with them; give 2 to 3, or"),
    ],
)
def test_a_training_ends_no_earlier_than_it_is_and_no_later_than_planned(
    tmp_path: Path, images: Images, epochs: int, message: str
) -> None:
    stopped(tmp_path, images, 6)
    with pytest.raises(UserError, match=message):
        make(tmp_path, images, replace(CONFIG, epochs=epochs)).resume()


def test_a_training_can_end_where_it_is(tmp_path: Path, images: Images) -> None:
    stopped(tmp_path, images, 5)
    trainer = make(tmp_path, images, replace(CONFIG, epochs=1))
    trainer.resume()
    trainer.fit("")
    assert trainer.step == 5


def test_before_its_first_step_a_training_can_have_any_length(tmp_path: Path, images: Images) -> None:
    make(tmp_path, images).save()
    trainer = make(tmp_path, images, replace(CONFIG, epochs=4))
    trainer.resume()
    assert (trainer.planned_epochs, trainer.total) == (4, 20)


def test_metrics_have_each_step_once_after_a_resume_from_an_older_checkpoint(tmp_path: Path, images: Images) -> None:
    trainer = make(tmp_path, images)
    trainer.fit("")
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(
        text + '{"step": 20, "epoch": 4.0, "loss": 0.1}\n{"step": 25, "lo'
    )  # killed while writing
    again = make(tmp_path, images)
    again.resume()
    again.fit("")
    assert (tmp_path / "metrics.jsonl").read_text() == text


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, images: Images, length: int) -> None:
    trainer = make(tmp_path, images)
    trainer.save()
    trainer.path.write_bytes(trainer.path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"checkpoint.safetensors is truncated or no checkpoint of ours"):
        make(tmp_path, images).resume()


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path, images: Images) -> None:
    make(tmp_path, images).save()
    with pytest.raises(
        UserError, match=r"is of another space or size: 2 tensors missing, 9 unknown, 0 of another shape"
    ):
        make(tmp_path, images, image_size=32).resume()


def test_a_checkpoint_of_an_older_version_is_named(tmp_path: Path, images: Images) -> None:
    trainer = make(tmp_path, images)
    checkpoint.save_tensors(trainer.path, {"model.0.weight": torch.zeros(1)}, {"step": 1, "seconds": 1.0, "amp": False})
    with pytest.raises(UserError, match=r"checkpoint.safetensors is not of this version .*has no accumulation_steps"):
        trainer.resume()


def test_a_foreign_safetensors_file_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no checkpoint of ours"):
        load_tensors(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no checkpoint "):
        load_tensors(tmp_path / "y.safetensors")


def test_load_module_names_a_wrong_shape(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0 tensors missing, 0 unknown, 1 of another shape \(such as weight\)"):
        load_module(nn.Linear(2, 3), nn.Linear(4, 3).state_dict(), tmp_path)


def test_optimizer_state_belongs_to_names(images: Images, tmp_path: Path) -> None:
    """A process may number the parameters otherwise."""
    trainer = make(tmp_path, images)
    trainer.fit("")
    other = make(tmp_path, images)
    for group in other.optimizer.param_groups:
        group["params"].reverse()
    other.resume()
    assert equal(
        checkpoint.optimizer_tensors(other.optimizer, other.model),
        checkpoint.optimizer_tensors(trainer.optimizer, trainer.model),
    )


# ---- a full disk


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files can be opened, but nothing fits."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", fail)
        yield


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, images: Images, request: pytest.FixtureRequest) -> None:
    trainer = make(tmp_path, images)
    trainer.save()
    before = trainer.path.read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError, match=r"cannot write .*checkpoint.safetensors: No space left on device"):
        trainer.fit("")
    assert trainer.path.read_bytes() == before
    assert not list(tmp_path.glob(".*tmp"))


# ---- losses that are no number


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    tmp_path: Path, images: Images, value: float
) -> None:
    trainer = make(tmp_path, images, spoil=lambda number, loss: loss * value if number == 7 else loss)
    with pytest.raises(
        UserError, match=rf"the loss is {value} at step 7; the last good checkpoint is .*checkpoint.saf"
    ):
        trainer.fit("")
    again = make(tmp_path, images)
    again.resume()
    assert again.step == 7
    assert all(t.isfinite().all() for t in state(again).values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, images: Images) -> None:
    """A finite loss may have gradients that are not: the step after it would be the first to notice."""

    def spoiled(number: int, loss: Tensor) -> Tensor:
        if number == 7:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    trainer = make(tmp_path, images, replace(CONFIG, clip_grad=0.0), spoil=spoiled)
    with pytest.raises(
        UserError, match=r"is not finite at step 8; the last good checkpoint is .*checkpoint.safetensors"
    ):
        trainer.fit("")
    assert load_tensors(trainer.path)[1]["step"] == 7


def test_without_a_checkpoint_the_message_says_so(tmp_path: Path, images: Images) -> None:
    config = replace(CONFIG, checkpoint_seconds=1000)
    trainer = make(tmp_path, images, config, spoil=lambda number, loss: loss * float("nan"))
    with pytest.raises(UserError, match="at step 0; the last good checkpoint is none yet"):
        trainer.fit("")


def test_a_step_may_say_what_has_diverged(tmp_path: Path, images: Images) -> None:
    def spoiled(number: int, loss: Tensor) -> Tensor:
        if number == 7:
            raise FloatingPointError("the loss of arch x is nan")
        return loss

    with pytest.raises(UserError, match=r"the loss of arch x is nan at step 7; the last good checkpoint is .*check"):
        make(tmp_path, images, spoil=spoiled).fit("")


# ---- precision


@pytest.mark.parametrize("bf16_is_faster", [True, False])
def test_measuring_bf16_changes_nothing(
    tmp_path: Path, images: Images, bf16_is_faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that measured first ends as one that was told what to use."""
    told = make(tmp_path / "told", images, replace(CONFIG, amp="bf16" if bf16_is_faster else "off"))
    told.fit("")
    clock = 0.0

    def timed(number: int, loss: Tensor) -> Tensor:
        nonlocal clock
        clock += 1.0 if torch.is_autocast_enabled("cpu") == bf16_is_faster else 2.0
        return loss

    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock)
    monkeypatch.setattr(precision, "_computes_bf16", lambda: True)
    measured = make(tmp_path / "measured", images, replace(CONFIG, amp="auto"), spoil=timed)
    measured.fit("")
    assert measured.amp == told.amp == ("bf16" if bf16_is_faster else "off")
    assert clock > 15 + 2
    assert equal(state(measured), state(told))


@pytest.mark.parametrize("diverges", [False, True])
def test_measuring_bf16_restores_buffers_and_gradients(diverges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_computes_bf16", lambda: True)
    model = small_model().train()
    x = torch.randn(4, 3, 16, 16)
    before = {n: t.clone() for n, t in model.state_dict().items()}

    def step() -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        if diverges:
            raise FloatingPointError
        return loss

    with suppress(FloatingPointError):
        pick_amp("auto", model, step, CPU)
    assert equal(before, model.state_dict())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("known", "is_tried"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "aarch64"}, True),
    ],
)
def test_bf16_is_tried_where_the_cpu_may_have_it(
    known: dict[str, object], is_tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    steps = []

    def step() -> Tensor:
        steps.append(1)
        return torch.zeros(())

    assert pick_amp("auto", small_model(), step, CPU) in ("off", "bf16")
    assert bool(steps) is is_tried


def test_fp16_needs_cuda(tmp_path: Path, images: Images) -> None:
    with pytest.raises(UserError, match="--amp fp16 needs CUDA, and --device is cpu; give --amp bf16, off or auto"):
        make(tmp_path, images, replace(CONFIG, amp="fp16"))


@pytest.fixture
def fp16(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """On a CPU, where it runs but is no use."""
    monkeypatch.setattr(loop, "check_amp", lambda *_: None)
    return replace(CONFIG, amp="fp16", clip_grad=0.0)


def test_a_run_in_fp16_goes_on_where_there_is_no_fp16(
    tmp_path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, images, CONFIG).save()
    tensors, info = load_tensors(tmp_path / "checkpoint.safetensors")
    save_tensors(tmp_path / "checkpoint.safetensors", tensors, info | {"amp": "fp16"})
    resumed = make(tmp_path, images, replace(CONFIG, amp="auto"))
    resumed.resume()
    assert resumed.amp is None, "chosen at the next step"
    assert "the precision was fp16 until now" in capsys.readouterr().out


def test_another_precision_may_be_asked_for_when_going_on(tmp_path: Path, images: Images) -> None:
    first = make(tmp_path, images, replace(CONFIG, amp="bf16"))
    first._use_amp("bf16")
    first.save()
    kept, changed = make(tmp_path, images, replace(CONFIG, amp="auto")), make(tmp_path, images, CONFIG)
    kept.resume()
    changed.resume()
    assert (kept.amp, changed.amp) == ("bf16", None)


def test_fp16_scales_the_loss_and_leaves_no_trace_in_the_gradients(
    tmp_path: Path, images: Images, fp16: TrainConfig
) -> None:
    """The learning rates, weights and averages are those of float32, nearly."""
    scaled, plain = make(tmp_path / "a", images, fp16), make(tmp_path / "b", images, replace(fp16, amp="off"))
    scaled.fit("")
    plain.fit("")
    assert scaled.scaler.get_scale() == 2.0**16
    for name, value in state(plain).items():
        if name != "0.bias":  # before a norm: its gradient is rounding errors
            torch.testing.assert_close(state(scaled)[name], value, rtol=0.1, atol=0.05)


def test_gradients_that_overflow_cost_a_step_and_lower_the_scale(
    tmp_path: Path, images: Images, fp16: TrainConfig
) -> None:
    weights: list[Tensor] = []

    def spoiled(number: int, loss: Tensor) -> Tensor:
        weights.append(trainer.model.get_parameter("4.weight").detach().clone())
        if number == 7:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    trainer = make(tmp_path, images, fp16, spoil=spoiled)
    trainer.fit("")
    same = [torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert same.index(True) == 7 and sum(same) == 1
    assert trainer.step == 15 and trainer.scaler.get_scale() == 2.0**15


def test_fp16_resumed_equals_uninterrupted(tmp_path: Path, images: Images, fp16: TrainConfig) -> None:
    def spoiled(number: int, loss: Tensor) -> Tensor:
        if number == 4:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    def stopping(number: int, loss: Tensor) -> Tensor:
        if number == 8:
            raise KeyboardInterrupt
        return spoiled(number, loss)

    whole = make(tmp_path / "whole", images, fp16, spoil=spoiled)
    whole.fit("")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "r", images, fp16, spoil=stopping).fit("")
    resumed = make(tmp_path / "r", images, fp16)
    resumed.resume()
    assert resumed.scaler.get_scale() == 2.0**15
    resumed.fit("")
    assert equal(state(resumed), state(whole))


def test_gradients_that_always_overflow_stop_the_run(tmp_path: Path, images: Images, fp16: TrainConfig) -> None:
    def spoiled(number: int, loss: Tensor) -> Tensor:
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    with pytest.raises(UserError, match="the gradients are not finite, however the loss is scaled, at step 30; the"):
        make(tmp_path, images, replace(fp16, epochs=10), spoil=spoiled).fit("")


# ---- what a resumed run says


def test_a_resumed_run_says_what_has_changed(
    tmp_path: Path, images: Images, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, images).save()
    make(tmp_path, images).resume()
    assert not capsys.readouterr().out
    monkeypatch.setattr(loop, "code_digest", lambda: "other")
    make(tmp_path, images, replace(CONFIG, accumulation_steps=2)).resume()
    normalized, code = capsys.readouterr().out.splitlines()
    assert normalized == "a batch is now normalized in 2 parts (1 before): other figures will follow"
    assert code == f"warning: the code has changed since {tmp_path}/checkpoint.safetensors was written"


# ---- settings


def test_a_batch_larger_than_the_data(tmp_path: Path, images: Images) -> None:
    with pytest.raises(UserError, match="--batch-size 21 is more than the 20 training images; lower it"):
        make(tmp_path, images, replace(CONFIG, batch_size=21))


def test_mixup_needs_pairs(tmp_path: Path, images: Images) -> None:
    with pytest.raises(
        UserError,
        match=r"--batch-size 5 does not make 1 equal parts .*mixup pairs images; give a multiple of 2, such as 4",
    ):
        make(tmp_path, images, replace(CONFIG, batch_size=5, augment="published"))


def test_the_published_recipe_is_on_from_128_pixels(images: Images) -> None:
    small, large = (task_of(images, CONFIG, size) for size in (16, 128))
    assert (small.augment, small.mixup, small.erase) == ("light", None, None)
    assert large.augment == "published" and large.mixup is not None and large.erase is not None


def test_the_learning_rate_warms_up_and_falls_by_a_cosine(tmp_path: Path, images: Images) -> None:
    rates: list[float] = []

    def record(number: int, loss: Tensor) -> Tensor:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return loss

    trainer = make(tmp_path, images, replace(CONFIG, epochs=8, lr=1024 / 4), spoil=record)
    trainer.fit("")
    assert len(rates) == 40
    assert rates[0] == pytest.approx(0.01) and rates[5] == pytest.approx(1.0, rel=0.05)
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.02


def test_accuracy_is_of_the_averaged_weights(tmp_path: Path, images: Images) -> None:
    seen: list[nn.Module] = []
    trainer = make(tmp_path, images)
    trainer.evaluate = lambda ema: seen.append(ema) or {"accuracy": 0.5}  # type: ignore[func-returns-value]
    trainer.fit("")
    assert len(seen) == 3 and all(model is trainer.ema.module for model in seen)
    assert not equal(trainer.ema.module.state_dict(), dict(trainer.model.state_dict()))
