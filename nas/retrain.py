"""Train the winners of a search as ordinary networks, by the recipe of the supplement's Table 1, and test them.

Bare: every winner of the newest search, starting from its inherited weights. As published, from scratch:
    python -m nas.retrain --init scratch --epochs 300
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas import runs
from nas.checkpoint import save_tensors
from nas.data import Data, load_data
from nas.train_supernet import load_supernet
from nas.training import FREE_ON_RESUME, Criterion, TrainConfig, Trainer, accuracy, pick_device, with_digits_defaults
from search_spaces import Arch, SearchSpace, UserError, macs, num_params
from search_spaces.command import flag, parse, run
from search_spaces.files import read_json, write_json


@dataclass(frozen=True)
class Config(TrainConfig):
    init: Literal["inherit", "scratch"] = flag("inherit", "start from the supernet's weights or from fresh ones")
    run: str | None = flag(None, "run of the search (default: the newest)")
    search: str | None = flag(None, "search folder of the run (default: the newest)")
    winners: tuple[str, ...] = flag((), "winners to train (default: all of the search)")
    resume: bool = flag(False, "go on with winners begun, skip those finished")


DIGITS_EPOCHS = 8


def retrain(config: Config) -> list[Path]:
    """Trains each winner in `retrain/<winner>/` of the run and returns these folders."""
    pattern = f"{config.search or 'search*'}/result.json"
    run_folder = runs.find_run(config.run, pattern, "python -m nas.search")
    found = runs.newest(run_folder, pattern)
    assert found is not None
    winners = {winner["name"]: winner for winner in read_json(found)["winners"]}
    if not winners:
        raise UserError(f"{found.parent} picked no winner; search again with limits that can be met")
    if unknown := [name for name in config.winners if name not in winners]:
        raise UserError(f"no winner {', '.join(unknown)} in {found.parent}; choose from {', '.join(winners)}")
    info = runs.load_run_info(run_folder)
    data = load_data(info.data)
    space = info.search_space()
    if info.data.data == "digits":
        config = with_digits_defaults(config, DIGITS_EPOCHS)
    folders = []
    for name in config.winners or winners:
        folder = run_folder / "retrain" / name
        if not (config.resume and (folder / "result.json").exists()):
            _retrain_one(config, run_folder, folder, space, space.from_json(winners[name]["arch"]), data)
        folders.append(folder)
    return folders


def _retrain_one(
    config: Config, run_folder: Path, folder: Path, space: SearchSpace, arch: Arch, data: Data
) -> None:
    resume = config.resume and (folder / "config.json").exists()
    if resume:
        config = replace(runs.resumable(folder, Config, config, (*FREE_ON_RESUME, *_SELECTION)), resume=True)
    runs.begin(folder, config, resume, (*FREE_ON_RESUME, *_SELECTION))
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    supernet = load_supernet(run_folder, device)
    inherited = supernet.extract(arch)
    inherited_accuracy = accuracy(_channels_last(inherited), data.test, space.image_size, device, config.workers)
    model = space.build(arch, config.drop_path)
    if config.init == "inherit":
        model.load_state_dict(inherited.state_dict())

    def step(images: Tensor, target: Tensor, number: int, criterion: Criterion) -> Tensor:
        loss = criterion(model(images), target)
        loss.backward()
        return loss.detach()

    def evaluate(ema: nn.Module) -> dict[str, float]:
        return {"accuracy": accuracy(ema.eval(), data.search, space.image_size, device, config.workers)}

    trainer = Trainer(model, data.train, config, folder, step, evaluate, space.image_size, space.num_classes)
    if resume:
        trainer.resume()
    trainer.fit(f"retrain {folder.name}")
    best = trainer.ema.module.eval()
    save_tensors(folder / "model.safetensors", best.state_dict(), {"space": space.name})
    result: dict[str, Any] = {
        "command": runs.command_line(),
        "name": folder.name,
        "arch": space.to_json(arch),
        "init": config.init,
        "epochs": config.epochs,
        "minutes": trainer.seconds / 60,
        "inherited_test_accuracy": inherited_accuracy,
        "test_accuracy": accuracy(best, data.test, space.image_size, device, config.workers),
        "num_params": num_params(space, arch),
        "macs": macs(space, arch),
    }
    write_json(folder / "result.json", result)
    print(
        f"{folder.name}: test accuracy {100 * inherited_accuracy:.2f} % inherited, "
        f"{100 * result['test_accuracy']:.2f} % after {config.epochs} epochs; wrote {folder}"
    )


_SELECTION = ("resume", "run", "search", "winners")


def _channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def main() -> None:
    retrain(parse(Config, None, "python -m nas.retrain", __doc__ or ""))


if __name__ == "__main__":
    run(main)
