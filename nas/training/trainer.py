"""The training loop of all that is trained, whatever it learns (`nas.training.task`).

Optimizer, schedule, EMA and clipping are timm's. Every random draw is a function of (seed,
step) or (seed, epoch, image), so a checkpoint needs no generator state and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm

from nas.data.batches import seed_all
from nas.distributed import collectives, process
from nas.distributed.accumulation import Parts
from nas.distributed.device import pick_device
from nas.networks.checkpoints import check_finite
from nas.runs.checkpoint import code_digest, load_module, load_optimizer, load_tensors, optimizer_tensors, save_tensors
from nas.runs.metrics import MetricsLog
from nas.runs.results import Ending
from nas.training.optimization import Ema, Optimization
from nas.training.patience import Best
from nas.training.precision import autocast, check_amp, pick_amp
from nas.training.progress import CHECKPOINT, Progress, check_epochs, evaluated, forecast, load_progress
from nas.training.recipe import LoopConfig
from nas.training.task import Criterion, Task
from search_spaces import UserError
from supernet.convolutions import mend_convolutions

MIN_LOSS_SCALE = 2.0**-14

# What a step calls for each of its losses instead of `loss.backward()`: scales the loss and adds up gradients.
Backward = Callable[[Tensor], None]
# (images, target, step, criterion, backward): a step's forward and backward passes; leaves gradients and returns the
# detached loss to report, or raises FloatingPointError, whose message names what is not finite.
Step = Callable[[Tensor, Any, int, Criterion, Backward], Tensor]


class Trainer:
    """Trains `model` in `folder`; the averaged weights are `ema`.

    `planned_epochs` are those that it was begun with: a resumed training may end earlier (`nas.training.progress`).

    Args:
        step: the forward and backward passes of one batch.
        evaluate: what the averaged model reaches on the search split, fractions by name; called some twenty times, and
            at the end.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        config: LoopConfig,
        folder: Path,
        step: Step,
        evaluate: Callable[[nn.Module], dict[str, float]],
    ) -> None:
        self.task, self.config, self.folder, self.step_fn, self.evaluate = task, config, folder, step, evaluate
        self.device = pick_device(config.device)
        check_amp(config.amp, self.device)
        self.model = mend_convolutions(model).train().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.epochs, self.steps_per_epoch = task.epochs, task.steps_per_epoch
        self.total = self.steps_per_epoch * self.epochs
        self.parts = Parts(self.model, config.batch_size, config.accumulation_steps, task.multiple)
        self.parameters = list(self.model.parameters())
        self.optimization = Optimization(self.model, config, self.total, self.steps_per_epoch)
        self.optimizer = self.optimization.optimizer
        self.ema = Ema(self.model, config.ema_decay)
        self.best = Best(self.ema.module, task.patience, task.num_search_images) if task.patience else None
        self.step, self.planned_epochs = 0, self.epochs
        self.seconds = 0.0  # of training, over all resumed parts
        self.after: Sequence[float] = ()  # trainings that follow it, as shares of its time, for what is said of that
        self.start_accuracy: float | None = None  # of the weights to begin with, if whoever put them here says it
        self.amp: str | None = None  # chosen at the first step
        self.scaler = GradScaler(self.device.type, enabled=False)
        self.loss = math.nan

    # ---- checkpoint

    @property
    def path(self) -> Path:
        return self.folder / CHECKPOINT

    def save(self) -> None:
        """Raises UserError, and keeps the last checkpoint, if a weight is not finite."""
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"ema.{n}": t for n, t in self.ema.module.state_dict().items()}
        tensors |= {f"optimizer.{n}": t for n, t in optimizer_tensors(self.optimizer, self.model).items()}
        tensors |= {f"best.{n}": t for n, t in self.best.weights.items()} if self.best else {}
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        if broken := next((n for n, t in tensors.items() if not t.isfinite().all()), None):
            raise self._diverged(f"{broken} is not finite")
        info: Progress = {
            "step": self.step,
            "epochs": self.epochs,
            "planned_epochs": self.planned_epochs,
            "seconds": self.seconds,
            "start_accuracy": self.start_accuracy,
            "best": self.best.state() if self.best else None,
            "amp": self.amp,  # type: ignore[typeddict-item]
            "scaler": self.scaler.state_dict(),
            "processes": process.world_size(),
            "accumulation_steps": self.config.accumulation_steps,
            "code": code_digest(),
        }
        save_tensors(self.path, tensors, dict(info))

    def resume(self) -> bool:
        """Continues from the folder's checkpoint; False, and from the beginning, if it was killed before its first."""
        if (info := load_progress(self.folder)) is None:
            return False
        check_epochs(self.folder, self.epochs, self.steps_per_epoch)
        if info["step"] > self.total:
            raise UserError(f"{self.path} is of step {info['step']} of {self.total}; restore it or train a new run")
        tensors, _ = load_tensors(self.path)
        check_finite(tensors, self.path)
        part = {
            kind: {n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(f"{kind}.")}
            for kind in ("model", "ema", "optimizer", "best")
        }
        load_module(self.model, part["model"], self.path)
        if self.best is not None and info["best"] is not None:
            load_module(self.ema.module, part["best"], self.path)
            self.best.load(info["best"], self.ema.module)
        load_module(self.ema.module, part["ema"], self.path)
        load_optimizer(self.optimizer, self.model, part["optimizer"])
        self.step, self.seconds, self.start_accuracy = info["step"], info["seconds"], info["start_accuracy"]
        self._go_on_with_epochs(info)
        self._go_on_with_amp(info)
        if (before := info["processes"] * info["accumulation_steps"]) != self.parts.count:
            print(f"a batch is now normalized in {self.parts.count} parts ({before} before): other figures will follow")
        if info["code"] != code_digest():
            print(f"warning: the code has changed since {self.path} was written")
        return True

    # ---- loop

    def fit(self, description: str) -> None:
        """Trains from the current step to the last; writes metrics, events and checkpoints on the way.

        With `patience` it may end before, and the averaged weights are then the best of all evaluations.

        Raises:
            UserError: the loss is not finite; the message names the step and the last good checkpoint.
        """
        collectives.agree(step=self.step)
        collectives.copy_from_first_(self._state())
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        log = MetricsLog(self.folder, self.step) if process.is_primary() else None
        bar = tqdm(
            total=self.total, initial=self.step, desc=description, unit="step", mininterval=0.5, disable=log is None
        )
        with log or nullcontext(), bar:
            self._evaluate_end()
            report = self._reporter(log, bar)
            left = forecast(description, self.step, self.total, self.epochs, self.task.num_images, self.after)
            for _ in () if self.is_over else self.steps():
                self.seconds = time.monotonic() - began
                bar.update()
                if log:
                    left.update()
                report()
                if log and (self.is_over or time.monotonic() - saved >= self.config.checkpoint_seconds):
                    self.save()
                    log.flush()
                    saved = time.monotonic()
                if self.is_over:
                    break
        if self.best is not None:
            self.ema.module.load_state_dict(self.best.weights)

    @property
    def is_over(self) -> bool:
        """Whether the last step is done, or the last evaluations were no better than one before."""
        return self.step == self.total or (self.best is not None and self.best.is_final)

    @property
    def ending(self) -> Ending:
        kept = self.best.step if self.best else self.step
        return {
            "epochs": self.epochs,
            "planned_epochs": self.planned_epochs,
            "stopped_epoch": self.step / self.steps_per_epoch if self.step < self.total else None,
            "kept_epoch": kept / self.steps_per_epoch,
            "minutes": self.seconds / 60,
        }

    def steps(self) -> Iterator[None]:
        """Trains from the current step to the last; yields after each."""
        for images, target in self.task.batches(self.step):
            self._one(images, target)
            yield

    def _evaluate_end(self) -> None:
        """With patience, takes down the last step's weights of one resumed to end where it is, perhaps between two
        evaluations or before the first."""
        if self.best is not None and self.best.step < self.step == self.total:
            self.best.add(self.step, self.evaluate(self.ema.module), self.ema.module)

    def _reporter(self, log: MetricsLog | None, bar: tqdm) -> Callable[[], None]:
        """To be called after each step: evaluates when it is time to, logs and shows metrics."""
        eval_steps = self.steps_per_epoch * max(1, self.epochs // 20)
        window = (time.monotonic(), self.step)

        def report() -> None:
            nonlocal window
            evaluating = self.step == self.total or self.step % eval_steps == 0
            if not evaluating and self.step % 50:
                return
            rate = (self.step - window[1]) * self.task.images_per_step / (time.monotonic() - window[0])
            accuracies = self.evaluate(self.ema.module) if evaluating else {}
            if self.best is not None and accuracies:
                self.best.add(self.step, accuracies, self.ema.module)
            if log:
                log.write(metrics := self._metrics(rate, accuracies))
                if accuracies:
                    bar.write(evaluated(metrics, self.task.said(accuracies), self.task.num_search_images))
            bar.set_postfix({"loss": f"{self.loss:.3f}", "img/s": f"{rate:.0f}"})
            window = (time.monotonic(), self.step)

        return report

    @property
    def _left_s(self) -> float:
        """Seconds that the rest takes if it goes as until now."""
        return self.seconds / self.step * (self.total - self.step)

    def _state(self) -> list[Tensor]:
        """What all processes must begin with alike: weights drawn on another kind of CPU may differ in the last bit."""
        return [t for net in (self.model, self.ema.module) for t in net.state_dict().values() if t.is_floating_point()]

    def _one(self, images: Tensor, target: Any) -> None:
        """A step: the parts of this process's share of the batch, one exchange with the others, one update."""
        if self.amp is None:
            self._choose_amp(images, target)
        self.optimization.begin_step(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack([self._pass(*part) for part in self.parts.each(images, target)]).mean().item()
        trained = [p for p in self.parameters if p.grad is not None]
        self.loss = self._mean_loss(loss, len(trained))
        collectives.average_(p.grad for p in trained if p.grad is not None)
        self.parts.average_statistics()
        self.scaler.unscale_(self.optimizer)
        if self.config.clip_grad > 0:
            dispatch_clip_grad(trained, self.config.clip_grad, mode=self.config.clip_mode)
        self.scaler.step(self.optimizer)  # not if a gradient is not finite: the scale was too high, and is lowered
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < MIN_LOSS_SCALE:
            raise self._diverged("the gradients are not finite, however the loss is scaled,")
        self.step += 1
        self.ema.update(self.model, step=self.step)

    def _pass(self, part: int, images: Tensor, target: Any) -> Tensor:
        """Adds up the gradients of a part; returns its loss."""
        x, target = self._prepared(part, images, target)
        with autocast(self.amp or "off", self.device):
            try:
                return self.step_fn(x, target, self.step, self.task.criterion, self._backward)
            except FloatingPointError as error:
                raise self._diverged(str(error)) from None

    def _prepared(self, part: int, images: Tensor, target: Any) -> tuple[Tensor, Any]:
        """What a part is trained on, on the device; what is drawn from here on is the part's own.

        Part 0 draws what a step in one part draws: a seed's missing last number is the same as 0.
        """
        seed_all(self.config.seed, self.step, part)
        return self.task.prepared(images, target, self.device)

    def _backward(self, loss: Tensor) -> None:
        parts = self.config.accumulation_steps
        self.scaler.scale(loss / parts if parts > 1 else loss).backward()

    def _mean_loss(self, loss: float, num_gradients: int) -> float:
        """Over the processes, which must have gradients of the same parameters."""
        loss, count, squares = collectives.total(loss, num_gradients, num_gradients**2)
        processes = process.world_size()
        assert count**2 == processes * squares, "processes have trained other networks"
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        return loss / processes

    def _choose_amp(self, images: Tensor, target: Any) -> None:
        """Process 0 does, on a part of its own."""
        chosen = ""
        if process.is_primary():
            size = len(images) // self.config.accumulation_steps
            x, target = self._prepared(0, images[:size], target[:size])

            def step() -> Tensor:
                return self.step_fn(x, target, self.step, self.task.criterion, Tensor.backward)

            try:
                chosen = pick_amp(self.config.amp, self.model, step, self.device)
            except FloatingPointError:  # float32 has a say in the step itself
                chosen = "off"
        self._use_amp(collectives.gather(chosen)[0])

    def _use_amp(self, amp: str) -> None:
        check_amp(amp, self.device)
        self.amp = amp
        self.scaler = GradScaler(self.device.type, enabled=amp == "fp16")

    def _go_on_with_amp(self, info: Progress) -> None:
        """Uses the checkpoint's precision, unless another is asked for or this device lacks it."""
        before = info["amp"]
        if before is None:
            return
        with suppress(UserError):  # fp16 on a CPU
            if self.config.amp in ("auto", before):
                self._use_amp(before)
                self.scaler.load_state_dict(info["scaler"])
                return
        print(f"the precision was {before} until now and may be another from here on: other figures will follow")

    def _go_on_with_epochs(self, info: Progress) -> None:
        if self.step == 0:
            return
        self.planned_epochs = info["planned_epochs"]
        if self.epochs != info["epochs"]:
            done, now = self.step / self.steps_per_epoch, self.epochs
            print(f"{self.folder} ends after {now} epochs instead of {info['epochs']}; {done:.4g} are trained")

    def _diverged(self, what: str) -> UserError:
        last = self.path if self.path.exists() else "none yet"
        return UserError(
            f"{what} at step {self.step}; the last good checkpoint is {last}; "
            f"train a new run with a lower --lr (now {self.config.lr}) or --clip-grad, or with --amp off"
        )

    def _metrics(self, images_per_s: float, accuracies: dict[str, float]) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "epochs": self.epochs,
            "loss": self.loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": round(images_per_s, 1),
            "elapsed_s": round(self.seconds, 1),
            "left_s": round(self._left_s, 1),
            "processes": process.world_size(),
            "accumulation_steps": self.config.accumulation_steps,
            **accuracies,
        }
