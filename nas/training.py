"""The training loop that the supernet and the retrained winners share.

Optimizer, schedule, EMA, mixup, random erasing and clipping are timm's. Every random draw is a function of (seed,
step) or (seed, epoch, image), so a checkpoint needs no generator state and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn
from tqdm import tqdm

from nas.batches import Augment, eval_batches, normalize, seed_all, train_batches, train_transform
from nas.checkpoint import load_module, load_optimizer, load_tensors, optimizer_tensors, save_tensors
from nas.data import Images
from search_spaces import UserError
from search_spaces.command import flag
from search_spaces.files import read_json_lines, write_text

Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainConfig:
    """Flags of a training run. These defaults are Table 1 of the EfficientFormerV2 supplement; see `with_recipe`."""

    epochs: int = flag(300, "passes over the training split", minimum=1)
    batch_size: int = flag(256, "images of a step", minimum=1)
    lr: float = flag(1e-3, "peak learning rate, at a batch of 1024 (scaled linearly with the batch)", above=0)
    weight_decay: float = flag(0.025, "AdamW's weight decay", minimum=0)
    warmup_epochs: float = flag(5.0, "epochs of linear warm-up", minimum=0)
    clip_grad: float = flag(0.01, "gradient clipping, 0 for none", minimum=0)
    clip_mode: Literal["norm", "value", "agc"] = flag("agc", "kind of gradient clipping")
    ema_decay: float = flag(0.9999, "decay of the weights' moving average, reached by warm-up", minimum=0, below=1)
    label_smoothing: float = flag(0.1, "of the labels' loss", minimum=0, below=1)
    drop_path: float = flag(0.0, "stochastic depth of the last block", minimum=0, below=1)
    augment: Literal["auto", "light", "published", "none"] = flag("auto", "published from 128 px on, else light")
    hflip: bool = flag(True, "mirror images at random (not for digits, letters, signs)")
    amp: Literal["auto", "bf16", "off"] = flag("auto", "bf16 autocast; auto: on CUDA, and on a CPU where it is faster")
    device: str = flag("auto", "cpu, cuda, cuda:1, …; auto: CUDA if there is one")
    workers: int = flag(0, "processes that load images (0: this one)", minimum=0)
    seed: int = flag(0, "of initialization, order, augmentation and sampling", minimum=0)
    checkpoint_seconds: float = flag(60.0, "time between checkpoints", minimum=0)


# Images under 128 px: short runs on small sets, on a laptop's CPU or one GPU.
_SMALL: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 128,
    "lr": 0.016,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "clip_grad": 1.0,
    "clip_mode": "norm",
    "ema_decay": 0.998,
}
# The embedded digits: 8x8 pixels, 1,797 images, no mirror images.
_DIGITS: dict[str, Any] = {
    **_SMALL,
    "batch_size": 64,
    "lr": 0.03,
    "warmup_epochs": 2.0,
    "ema_decay": 0.99,
    "label_smoothing": 0.0,
    "hflip": False,
}
AnyTrainConfig = TypeVar("AnyTrainConfig", bound=TrainConfig)


def with_recipe(config: AnyTrainConfig, image_size: int, data: str, digits_epochs: int) -> AnyTrainConfig:
    """The config with the recipe that suits the images; `TrainConfig`'s own is for 128 px and more."""
    if data == "digits":
        return replace(config, **{**_DIGITS, "epochs": digits_epochs})
    return replace(config, **_SMALL) if image_size < 128 else config


FREE_ON_RESUME = ("device", "workers", "checkpoint_seconds")


# What a step calls for each of its losses instead of `loss.backward()`: scales the loss and adds up gradients.
Backward = Callable[[Tensor], None]
# (images, target, step, criterion, backward): a step's forward and backward passes; leaves gradients and returns the
# detached loss to report, or raises FloatingPointError, whose message names what is not finite.
Step = Callable[[Tensor, Tensor, int, Criterion, Backward], Tensor]


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def pick_amp(amp: str, model: nn.Module, step: Callable[[], Tensor], device: torch.device) -> bool:
    """Whether to autocast to bf16; on a CPU, `auto` times a training step both ways, interleaved."""
    if amp != "auto":
        return amp == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    for _ in range(3):
        for enabled, times in seconds.items():
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                step()
            times.append(time.perf_counter() - start)
        if min(seconds[True]) > 1.5 * min(seconds[False]):
            break
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, tensor in model.named_buffers():
            tensor.copy_(buffers[name])
    return min(seconds[True]) < min(seconds[False])


class _Ema(ModelEmaV3):
    """timm's, its tensors listed once: listing a supernet's thousands of modules takes longer than averaging them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay=decay, use_warmup=True, warmup_power=0.75)
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self.averages, self.values = [average for average, _ in floats], [value for _, value in floats]
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        torch._foreach_lerp_(self.averages, self.values, weight=1 - decay)
        for average, value in self.counters:
            average.copy_(value)


class Trainer:
    """Trains `model` in `folder`; the averaged weights are `ema`.

    Args:
        step: the forward and backward passes of one batch.
        evaluate: accuracies by name, fractions, of the averaged model; called after every `eval_epochs` epochs.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Images,
        config: TrainConfig,
        folder: Path,
        step: Step,
        evaluate: Callable[[nn.Module], dict[str, float]],
        image_size: int,
        num_classes: int,
    ) -> None:
        self.config, self.folder, self.train, self.step_fn, self.evaluate = config, folder, train, step, evaluate
        self.image_size = image_size
        self.device = pick_device(config.device)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps_per_epoch = len(train) // config.batch_size
        if self.steps_per_epoch < 1:
            raise UserError(f"--batch-size {config.batch_size} is more than the {len(train)} training images; lower it")
        self.total = self.steps_per_epoch * config.epochs
        self.augment: Augment = config.augment if config.augment != "auto" else _auto_augment(image_size)
        published = self.augment == "published"
        if published and config.batch_size % 2:
            raise UserError(f"--batch-size {config.batch_size} is odd; mixup pairs images: give an even one")
        lr = config.lr * config.batch_size / 1024
        self.optimizer = create_optimizer_v2(self.model, "adamw", lr=lr, weight_decay=config.weight_decay)
        warmup = min(round(config.warmup_epochs * self.steps_per_epoch), self.total // 4)
        self.schedule = CosineLRScheduler(
            self.optimizer, self.total, lr_min=lr / 100, warmup_t=warmup, warmup_lr_init=lr / 100, t_in_epochs=False
        )
        self.ema = _Ema(self.model, config.ema_decay)
        smoothing = config.label_smoothing
        self.mixup = (
            Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=smoothing, num_classes=num_classes)
            if published
            else None
        )
        self.erase = RandomErasing(0.25, mode="pixel", device=self.device) if published else None
        self.criterion: Criterion = (
            SoftTargetCrossEntropy() if self.mixup else nn.CrossEntropyLoss(label_smoothing=smoothing)
        )
        self.step = 0
        self.seconds = 0.0  # of training, over all resumed parts
        self.amp: bool | None = None
        self.loss = math.nan

    # ---- checkpoint

    @property
    def path(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Raises UserError, and keeps the last checkpoint, if a weight is not finite."""
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"ema.{n}": t for n, t in self.ema.module.state_dict().items()}
        tensors |= {f"optimizer.{n}": t for n, t in optimizer_tensors(self.optimizer, self.model).items()}
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        if broken := next((n for n, t in tensors.items() if not t.isfinite().all()), None):
            raise self._diverged(f"{broken} is not finite")
        save_tensors(self.path, tensors, {"step": self.step, "seconds": self.seconds, "amp": self.amp})

    def resume(self) -> None:
        """Continues from the folder's checkpoint; from the beginning if the run was killed before its first."""
        if not self.path.exists():
            return
        tensors, info = load_tensors(self.path)
        part = {
            kind: {n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(f"{kind}.")}
            for kind in ("model", "ema", "optimizer")
        }
        load_module(self.model, part["model"], self.path)
        load_module(self.ema.module, part["ema"], self.path)
        load_optimizer(self.optimizer, self.model, part["optimizer"])
        self.step, self.seconds, self.amp = info["step"], info["seconds"], info["amp"]

    # ---- loop

    def fit(self, description: str) -> None:
        """Trains from the current step to the last; writes metrics, events and checkpoints on the way.

        Raises:
            UserError: the loss is not finite; the message names the step and the last good checkpoint.
        """
        config = self.config
        batches = train_batches(
            self.train,
            train_transform(self.image_size, self.augment, config.hflip),
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            start=self.step,
            workers=config.workers,
        )
        log = _Log(self.folder, self.step)
        accuracies: dict[str, float] = {}
        began, first = time.monotonic() - self.seconds, self.step
        saved, window = time.monotonic(), (time.monotonic(), self.step)
        eval_steps = self.steps_per_epoch * max(1, config.epochs // 20)
        with log, tqdm(total=self.total, initial=first, desc=description, unit="step", mininterval=0.5) as bar:
            for images, labels in batches:
                self._one(images, labels)
                self.seconds = time.monotonic() - began
                bar.update()
                done = self.step == self.total
                evaluating = done or self.step % eval_steps == 0
                if evaluating or self.step % 50 == 0:
                    rate = (self.step - window[1]) * config.batch_size / (time.monotonic() - window[0])
                    found = self._evaluate() if evaluating else {}
                    log.write(self._metrics(rate, found))
                    accuracies = found or accuracies
                    shown = {n.removesuffix("_accuracy"): f"{100 * a:.1f}%" for n, a in accuracies.items()}
                    bar.set_postfix({"loss": f"{self.loss:.3f}", **shown, "img/s": f"{rate:.0f}"})
                    window = (time.monotonic(), self.step)
                if done or time.monotonic() - saved >= config.checkpoint_seconds:
                    self.save()
                    log.flush()
                    saved = time.monotonic()

    def _one(self, images: Tensor, labels: Tensor) -> None:
        seed_all(self.config.seed, self.step)
        self.model.train()
        x, target = normalize(images, self.device), labels.to(self.device)
        if self.erase is not None:
            x = self.erase(x)
        if self.mixup is not None:
            x, target = self.mixup(x, target)
        if self.amp is None:
            self.amp = pick_amp(
                self.config.amp,
                self.model,
                lambda: self.step_fn(x, target, self.step, self.criterion, Tensor.backward),
                self.device,
            )
            seed_all(self.config.seed, self.step)
        self.schedule.step_update(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            try:
                loss = self.step_fn(x, target, self.step, self.criterion, Tensor.backward)
            except FloatingPointError as error:
                raise self._diverged(str(error)) from None
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            raise self._diverged(f"the loss is {self.loss}")
        if self.config.clip_grad > 0:
            trained = [p for p in self.model.parameters() if p.grad is not None]
            dispatch_clip_grad(trained, self.config.clip_grad, mode=self.config.clip_mode)
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.model, step=self.step)

    def _diverged(self, what: str) -> UserError:
        last = self.path if self.path.exists() else "none yet"
        return UserError(
            f"{what} at step {self.step}; the last good checkpoint is {last}; "
            f"train a new run with a lower --lr (now {self.config.lr}) or --clip-grad, or with --amp off"
        )

    def _evaluate(self) -> dict[str, float]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bool(self.amp)):
            return self.evaluate(self.ema.module)

    def _metrics(self, images_per_s: float, accuracies: dict[str, float]) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "loss": self.loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": round(images_per_s, 1),
            "elapsed_s": round(self.seconds, 1),
            **accuracies,
        }


class _Log:
    """metrics.jsonl and TensorBoard events; lines past the resumed step are cut, so that a step is there once."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_json_lines(self.path) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = self.path.open("a")
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def write(self, metrics: dict[str, Any]) -> None:
        self.file.write(json.dumps(metrics) + "\n")
        self.file.flush()
        for name, value in metrics.items():
            if name != "step":
                self.events.add_scalar(name, value, metrics["step"])

    def flush(self) -> None:
        self.events.flush()

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.events.close()


def _auto_augment(image_size: int) -> Augment:
    return "published" if image_size >= 128 else "light"


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, image_size: int, device: torch.device, workers: int = 0) -> float:
    """Top-1 accuracy, a fraction, of a model in evaluation mode; corrupt images do not count."""
    correct, count = 0, 0
    for batch, labels in eval_batches(images, image_size, 256, workers):
        logits = model(normalize(batch, device))
        correct += int((logits.argmax(dim=1).cpu() == labels).sum())
        count += int((labels >= 0).sum())
    return correct / max(count, 1)
