"""Trains the supernet of a space of classifiers, in the folder `supernet/` of a new run."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas import runs
from nas.data import Data, DataConfig, Images, load_data
from nas.distributed import collectives, process
from nas.distributed.device import pick_device
from nas.evaluation.accuracy import accuracy
from nas.evaluation.intervals import with_interval
from nas.networks.start import ordered_start, take_over
from nas.networks.weights import CheckpointImages, init_normalization
from nas.supernets.elastic import (
    ElasticConfig,
    check_elastic,
    check_sampling,
    ended,
    record,
    result_of,
    resume,
    run_of,
    save_weights,
    step_archs,
    step_of,
    watched,
)
from nas.training.recipe import (
    TrainConfig,
    check_alike,
    check_fits,
    check_used,
    finetune_epochs,
    with_recipe,
)
from nas.training.task import Classification, Criterion
from nas.training.teacher import (
    Teacher,
    TeacherConfig,
    load_teacher,
    may_move,
    teacher_facts,
    teacher_result,
    use_both_classifiers,
)
from nas.training.trainer import Backward, Trainer
from search_spaces import DEFAULT_SPACE, SearchSpace, UserError, arch_label, get_space
from search_spaces.command import amend, check_idle, fill, flag, given
from search_spaces.command.files import write_json
from supernet import LOSSES, Supernet


@dataclass(frozen=True)
class Config(TeacherConfig, ElasticConfig, TrainConfig, DataConfig, CheckpointImages):
    task: Literal["classify"] = flag("classify", "what networks learn: classify, detect (boxes) or segment (masks)")
    space: str = flag(DEFAULT_SPACE, "search space; `python -m search_spaces` lists them")
    init: str | None = flag(
        None,
        "weights to start from: a file of a timm network of the space, a folder of ours that has one, or pretrained "
        "(timm's own, downloaded); with it, --recipe is finetune (default: fresh weights)",
    )
    order: Literal["taylor", "magnitude"] = flag(
        "taylor", "with --init: what says which units matter, which the smaller networks have"
    )
    loss: Literal["ce", "kl", "alpha"] = flag(
        "kl", "what all but the largest learn from: the labels (ce) or the largest's predictions (kl, alpha)"
    )


DIGITS_EPOCHS = 10
WARM: dict[str, Any] = {"loss": "kl", "sampling": "balanced", "norm": "shared"}
SMALL: dict[str, Any] = {"loss": "ce", "sampling": "balanced", "norm": "shared"}  # docs/results-archive.md, Ranking


def configure(config: Config) -> Config:
    """The config; what was not given is as the run was begun with, or what suits the images."""
    if config.resume:
        folder = run_of(config)
        return amend(fill(config, runs.begun(folder / "supernet", Config)), run=str(folder))
    config = of_run(config)
    config = fill(config, suited(config))
    check_flags(config)
    return config


def train_supernet(config: Config) -> Path:
    """Trains, evaluates on the search and test splits and returns the run's folder; goes on with it on `resume`."""
    check_recipe(config)
    folder = run_of(config)
    stage = folder / "supernet"
    changed: dict[str, Any] = {}
    if config.resume:
        may_change = (*may_move(config), *runs.ClassesRun.may_move)
        found, changed = resume(config, folder, may_change, **teacher_facts(config))
        if found is None:
            print(f"{folder} is finished: nothing to train")
            return folder
        assert isinstance(found, Data)
        data = found
    else:
        runs.check_new(stage, "--run")
        data = runs.load_run_data(folder, config) if _is_finetuned(folder) else load_data(config)
        if config.is_finetuning and "epochs" not in given(config):
            config = amend(config, epochs=finetune_epochs(len(data.train)))
    check_alike(config, data.splits.digest)
    space = get_space(config.space, config.image_size, len(data.classes))
    if not config.resume:
        images = init_normalization(space, config.init, config)
        data = data.normalized(images.mean, images.std)
    check_fits(config, space)
    info = runs.ClassesRun.of(space, data, config.data_config())
    runs.check_run(folder, info)
    teacher = load_teacher(config, data.classes, data.train.normalization, pick_device(config.device))
    taught = {"teacher": teacher_result(teacher, data, space.image_size, config.num_workers)} if teacher else {}
    trainer = make_trainer(config, stage, space, data, teacher)
    if not (config.resume and trainer.resume()) and config.init:
        _warm_start(config, folder, trainer, data)
    if config.resume:
        record(config, folder, changed)
    else:
        runs.begin_run(folder, info, stage, config, **teacher_facts(config))
    trainer.fit(f"supernet {space.name}")
    save_weights(stage, trainer, config.norm)
    _finish(config, folder, trainer, data, taught)
    return folder


def _warm_start(config: Config, folder: Path, trainer: Trainer, data: Data) -> None:
    """Puts the weights that --init names into the supernet and its average; says what it did."""
    assert config.init is not None
    supernet: Any = trainer.model
    space, device, workers = supernet.space, trainer.device, config.num_workers
    init = runs.follow(config.init, folder)
    arch, network = ordered_start(space, init, config.order, data.train, device, workers)
    for store in (supernet, trainer.ema.module):
        take_over(store, arch, network)
    start = accuracy(network.to(device), data.search, space.image_size, device, workers)
    print(f"{arch_label(space, arch)} starts with {100 * start:.2f} % on the search split", flush=True)


def make_trainer(
    config: Config, folder: Path, space: SearchSpace, data: Data, teacher: Teacher | None = None
) -> Trainer:
    torch.manual_seed(config.seed)
    supernet = Supernet(space, config.drop_path or 0.0, config.norm, config.checkpoint_activations)
    if teacher is not None:
        use_both_classifiers(supernet)
    archs = step_archs(config, space, config.steps_per_epoch(len(data.train)))
    passes = step_of(supernet, archs, LOSSES[config.loss], lambda: trainer.parts)

    def step(images: Tensor, target: Tensor, number: int, criterion: Criterion, backward: Backward) -> Tensor:
        learned = teacher.distil(criterion, images) if teacher is not None else criterion
        return passes(images, target, number, learned, backward)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return {f"{name}_accuracy": each for name, each in accuracies(trainer, data.search).items()}

    task = Classification(data, config, space.image_size, pick_device(config.device))
    trainer = Trainer(supernet, task, config, folder, step, evaluate)
    return trainer


def suited(config: Config) -> Config:
    """The config with the recipe that suits its images, and what suits how networks share weights.

    Statistics of each width's own norms follow weights that change fast too slowly, so only adamw keeps them for the
    digits: MobileOne's largest network had 13 % with them, and 66 % once they were measured anew.
    """
    space = get_space(config.space, config.image_size)
    usual = space.finetune if config.init else space.recipe
    recipe = with_recipe(config, space.image_size, config.data, DIGITS_EPOCHS, usual)
    if config.init:
        return replace(recipe, **WARM)
    small = space.image_size < 128 and (config.data != "digits" or recipe.recipe != "adamw")
    return replace(recipe, **SMALL) if small else recipe


def _is_finetuned(folder: Path) -> bool:
    """Whether nas.finetune has begun the run; its network may not have ended."""
    return (folder / "retrain" / runs.WHOLE / "config.json").exists()


def of_run(config: Config) -> Config:
    """With the space, the images and the weights of the run that --run names, where nas.finetune has begun it.

    Raises:
        UserError: it has not ended; flags that say something else.
    """
    folder = runs.run_folder(config.run) if config.run else None
    if folder is None or not _is_finetuned(folder):
        return config
    if not (folder / "retrain" / runs.WHOLE / "result.json").exists():
        resume = shlex.join(["python", "-m", "nas.finetune", "--resume", "--run", str(config.run)])
        raise UserError(f"{folder} is not fine-tuned to its end; go on with: {resume}")
    info = runs.load_classes_info(folder)
    start = str(folder / "retrain" / runs.WHOLE)
    begun = replace(config, **vars(info.data), space=info.space, image_size=info.image_size, init=start)
    fixed = {*vars(info.data), "space", "image_size"} - {*runs.ClassesRun.may_move}
    for name in sorted(fixed & given(config)):
        if (value := getattr(config, name)) != (before := getattr(begun, name)):
            spelled = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{spelled} is {value}, but {folder} was begun with {before}; leave it out, or give no --run"
            )
    return fill(config, begun)


def check_flags(config: Config) -> None:
    """UserError if a flag was given that the others leave without effect."""
    check_used(config)
    if config.init is None:
        check_idle(config, ("order", "mean", "std"), "--init")
    check_sampling(config, () if config.loss == "ce" else ("loss",))  # the largest learns from the labels anyhow


def check_recipe(config: Config) -> None:
    """UserError if the settings cannot go together."""
    if config.sampling == "uniform" and config.loss != "ce":
        raise UserError(
            f"--loss {config.loss} learns from the largest network, which --sampling uniform does not train; "
            "give --loss ce or another --sampling"
        )
    check_elastic(config, config.epochs)


def accuracies(trainer: Trainer, images: Images) -> dict[str, float]:
    """Of the watched networks."""
    size, workers = trainer.task.image_size, trainer.config.num_workers
    return {n: accuracy(net, images, size, trainer.device, workers) for n, net in watched(trainer).items()}


def _finish(config: Config, folder: Path, trainer: Trainer, data: Data, facts: dict[str, Any]) -> None:
    stage = folder / "supernet"
    search, test = accuracies(trainer, data.search), accuracies(trainer, data.test)
    skipped = _skipped(data)  # a large set shows them only when all of it has been read
    if not process.is_primary():
        return
    result: dict[str, Any] = {
        **result_of(config, stage, trainer, data, search, test),
        "loss": config.loss,
        **facts,
    }
    info = runs.load_classes_info(folder)
    runs.save_run_info(folder, replace(info, splits=replace(info.splits, skipped=skipped)))
    write_json(stage / "result.json", result)
    if skipped:
        print(f"skipped {len(skipped)} corrupt images: {', '.join(skipped[:5])}")
    for name in search:
        splits = (
            f"{n} split {with_interval(a[name], c)}"
            for n, a, c in (("search", search, len(data.search)), ("test", test, len(data.test)))
        )
        print(f"{name:8}  {'  '.join(splits)}")
    print(f"{ended(result)}; wrote {folder}")


def _skipped(data: Data) -> tuple[str, ...]:
    """The corrupt images that any process has come across."""
    names = (json.loads(text) for text in collectives.gather(json.dumps(list(data.train.skipped.names))))
    return tuple(dict.fromkeys(name for found in names for name in found))
