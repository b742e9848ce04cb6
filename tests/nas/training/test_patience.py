from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.data import Images
from nas.runs.checkpoint import load_tensors
from nas.runs.metrics import read_metrics
from nas.runs.results import lasted
from nas.training.trainer import Trainer
from tests.nas.training.test_trainer import CONFIG, equal, images, make, state  # noqa: F401

EPOCHS, STEPS = 8, 5  # of an epoch
FOUND = {1: 0.4, 2: 0.7, 3: 0.6, 4: 0.59, 5: 0.55, 6: 0.9}  # by epoch; of 20 images 0.7 is known to ± 0.102
PATIENT = replace(CONFIG, epochs=EPOCHS, patience=3)


def patient(folder: Path, images: Images, config: Any = PATIENT, stop: int | None = None) -> Trainer:  # noqa: F811
    """A trainer whose evaluations find `FOUND`; interrupted at a step."""

    def interrupt(number: int, loss: Tensor) -> Tensor:
        if number == stop:
            raise KeyboardInterrupt
        return loss

    trainer = make(folder, images, config, spoil=interrupt)
    trainer.evaluate = lambda _: {"accuracy": FOUND.get(trainer.step // STEPS, 0.5)}
    return trainer


def averages(trainer: Trainer) -> dict[str, Tensor]:
    return copy.deepcopy(trainer.ema.module.state_dict())


def after(trainer: Trainer, step: int) -> dict[str, Tensor]:
    """The averaged weights at that step of an uninterrupted training."""
    steps = trainer.steps()
    for _ in range(step):
        next(steps)
    return averages(trainer)


def test_it_ends_when_nothing_gets_better_and_keeps_the_last_that_is_about_as_good(
    tmp_path: Path,
    images: Images,  # noqa: F811
) -> None:
    trainer = patient(tmp_path / "patient", images)
    trainer.fit("")
    assert [line["epoch"] for line in read_metrics(tmp_path / "patient/metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert trainer.is_over and trainer.step == 5 * STEPS
    assert (trainer.ending["epochs"], trainer.ending["stopped_epoch"], trainer.ending["kept_epoch"]) == (8, 5, 3)
    assert lasted(trainer.ending) == "5 of 8 epochs, kept as of epoch 3"
    assert equal(averages(trainer), after(make(tmp_path / "other", images, replace(PATIENT, patience=None)), 3 * STEPS))


def test_one_that_is_better_late_has_all_its_epochs(tmp_path: Path, images: Images) -> None:  # noqa: F811
    trainer = patient(tmp_path, images, replace(PATIENT, patience=5))
    trainer.fit("")
    assert trainer.step == EPOCHS * STEPS
    assert (trainer.ending["stopped_epoch"], trainer.ending["kept_epoch"]) == (None, 6)
    assert lasted(trainer.ending) == "8 epochs"
    assert equal(averages(trainer), after(make(tmp_path / "other", images, replace(PATIENT, patience=None)), 6 * STEPS))


@pytest.mark.parametrize("stop", [4, 12, 17, 24])
def test_resumed_at_any_step_it_ends_alike(tmp_path: Path, images: Images, stop: int) -> None:  # noqa: F811
    whole = patient(tmp_path / "whole", images)
    whole.fit("")
    with pytest.raises(KeyboardInterrupt):
        patient(tmp_path / "r", images, stop=stop).fit("")
    for _ in range(2):  # once more after it has ended, as after a kill in its test
        resumed = patient(tmp_path / "r", images)
        assert resumed.resume()
        resumed.fit("")
        assert equal(state(resumed), state(whole)) and resumed.ending["kept_epoch"] == 3
    assert equal(load_tensors(resumed.path)[0], load_tensors(whole.path)[0])


@pytest.mark.parametrize("epochs", [1, 3])
def test_resumed_to_end_between_two_evaluations_it_keeps_what_it_has_trained(
    tmp_path: Path,
    images: Images,  # noqa: F811
    epochs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Evaluations are at every second epoch; before the first there were fresh weights."""
    monkeypatch.setitem(FOUND, 3, 0.8)
    long, step = replace(PATIENT, epochs=40), epochs * STEPS
    with pytest.raises(KeyboardInterrupt):
        patient(tmp_path / "r", images, long, stop=step).fit("")
    resumed = patient(tmp_path / "r", images, replace(long, epochs=epochs))
    assert resumed.resume() and resumed.is_over
    resumed.fit("")
    assert resumed.ending["kept_epoch"] == epochs
    assert equal(averages(resumed), after(make(tmp_path / "other", images, replace(long, patience=None)), step))


def test_the_averages_of_the_end_are_in_the_checkpoint_beside_the_best(tmp_path: Path, images: Images) -> None:  # noqa: F811
    trainer = patient(tmp_path, images)
    trainer.fit("")
    tensors = load_tensors(trainer.path)[0]
    best, last = (
        {n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(kind)} for kind in ("best", "ema")
    )
    assert equal(best, averages(trainer))
    assert not any(torch.equal(best[name], tensor) for name, tensor in last.items() if name.endswith("weight"))
