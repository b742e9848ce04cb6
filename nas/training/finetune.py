"""Trains a pretrained network of timm as it is: `retrain/whole/` of a new run, in which its parts are searched then."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nas import runs
from nas.data import Data, DataConfig, load_data
from nas.distributed import collectives, process
from nas.distributed.device import pick_device
from nas.evaluation.accuracy import accuracy
from nas.networks.start import fit_classifier, load_start
from nas.runs.checkpoint import save_tensors
from nas.training.recipe import FREE_ON_RESUME, TrainConfig, finetune_epochs, with_recipe
from nas.training.trainer import check_alike
from nas.training.winner import make_trainer
from search_spaces import SearchSpace, UserError, get_space, macs, num_params
from search_spaces.command import amend, flag, given
from search_spaces.command.files import slug, write_json
from search_spaces.timm_network import PREFIX


@dataclass(frozen=True)
class Config(TrainConfig, DataConfig):
    model: str = flag("tf_efficientnet_lite0", "timm name of the network")
    init: str = flag("pretrained", "its weights: a file, a folder of ours, or pretrained (timm's own, downloaded)")
    image_size: int | None = flag(None, "height and width of the images (default: timm's)")
    run: str | None = flag(None, "name of the run under runs/ (default: made of model, data and time)")
    resume: bool = flag(False, "go on with the run named, or the newest")


FREE = (*FREE_ON_RESUME, "run", "resume", "init")


def suited(config: Config) -> Config:
    """The config with the recipe finetune, or the one that it names."""
    size = get_space(PREFIX + config.model, config.image_size).image_size
    return with_recipe(config, size, config.data, 10, "finetune")


def run_of(config: Config) -> Path:
    """The run's folder: the one to go on with on `resume`, else a new one, the same for all processes."""
    if config.resume:
        return runs.find_run(config.run, f"retrain/{runs.WHOLE}/config.json", "python -m nas.finetune")
    stem = Path(config.data).name.removesuffix(".tar") or "data"
    name = config.run or slug(f"{config.model}-{stem}-{datetime.now():%Y%m%d-%H%M%S}")  # noqa: DTZ005
    return runs.run_folder(collectives.gather(name)[0])


def finetune(config: Config) -> Path:
    """Trains and tests the network and returns the run's folder; goes on with it on `resume`."""
    run_folder = run_of(config)
    folder = run_folder / "retrain" / runs.WHOLE
    if config.resume:
        changed = runs.reopen(folder, config, FREE, runs.MAY_MOVE)
        if (folder / "result.json").exists():
            print(f"{folder} is finished: nothing to train")
            return run_folder
        data = runs.load_run_data(run_folder, config)
        runs.record(folder, changed)
        runs.record_place(run_folder, config)
    else:
        runs.check_new(folder, "--run")
        if (run_folder / "run.json").exists():
            raise UserError(f"{run_folder} has begun with something else; give another --run")
        data = load_data(config)
        if config.recipe == "finetune" and "epochs" not in given(config):
            config = amend(config, epochs=finetune_epochs(len(data.train)))
    check_alike(config, data)
    space = get_space(PREFIX + config.model, config.image_size, len(data.classes))
    data = data.normalized(space.mean, space.std)
    _train(config, run_folder, folder, space, data)
    return run_folder


def _train(config: Config, run_folder: Path, folder: Path, space: SearchSpace, data: Data) -> None:
    device, size = pick_device(config.device), space.image_size
    arch, network, is_new = load_start(space, config.init)
    if is_new:
        fit_classifier(network, data.train, size, device, config.num_workers)
    before = accuracy(network.to(device), data.test, size, device, config.num_workers)
    model = space.build(arch, config.drop_path or 0.0)
    model.load_state_dict(network.state_dict())
    trainer = make_trainer(config, folder, size, data, model)
    if config.resume:
        trainer.resume()
    else:
        runs.save_run_info(run_folder, runs.RunInfo.of(space, data, config.data_config()))
        runs.begin(folder, config)
    trainer.fit(f"fine-tune {config.model}")
    best = trainer.ema.module.eval()
    test_accuracy = accuracy(best, data.test, size, device, config.num_workers)
    if not process.is_primary():
        return
    save_tensors(folder / "model.safetensors", best.state_dict(), {"space": space.name})
    result: dict[str, Any] = {
        "command": runs.command_of(folder),
        "name": runs.WHOLE,
        "arch": space.to_json(arch),
        "init": config.init,
        "epochs": config.epochs,
        "minutes": trainer.seconds / 60,
        "inherited_test_accuracy": before,
        "test_accuracy": test_accuracy,
        "num_params": num_params(space, arch),
        "macs": macs(space, arch),
    }
    write_json(folder / "result.json", result)
    print(
        f"{config.model}: test accuracy {100 * before:.2f} % with a fitted classifier, {100 * test_accuracy:.2f} % "
        f"after {config.epochs} epochs; wrote {folder}\n"
        f"its parts: python -m nas.train_supernet --space {space.name} --run {run_folder.name}"
    )
