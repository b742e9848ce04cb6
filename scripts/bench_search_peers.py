"""Winners of a search beside what other tools make of the same fine-tuned network: as fast, for as much training.

    python -m scripts.bench_search_peers --run photos
    python -m scripts.bench_search_peers --run photos --winners winner-2 --methods fastnas torch-pruning

The run is one of nas.finetune, nas.train_supernet, nas.search (with latency) and nas.retrain. For each winner that is
faster than the fine-tuned network, this is made smaller by

- fastnas: NVIDIA's FastNAS, with accuracy on the search split as its score;
- torch-pruning: GroupTaylor, all layers ranked together, in steps of 30 % of the MACs;
- nas.prune: ours, Taylor importance by the MACs that are saved.

All use the same training images for importance (or norms) and widths that are multiples of --round-to. How much remains
is adjusted until the network, timed beside the winner by the table's protocol, takes at most the winner's time. It is
then fine-tuned by the winner's own settings, but for as long as the winner was trained: total compute is forward
passes of training, multiply-accumulates × images, and a winner's is its retraining and an equal share (one of the
retrained winners) of all passes of the supernet's. What no weights were trained by is left out: the search's
evaluations, and FastNAS's, which are more. The fine-tuning that all begin with is left out, too.

What is made lies in `bench-peers/` of the run; the same command goes on with what is not there yet, and no other
--images, --round-to or weights are taken for those that it was begun with. In the end all are
timed in one interleaved run and tested on the same images: `bench-peers/result.json`, and a table.

The peers are extras: pip install torch-pruning==1.6.1 nvidia-modelopt==0.47.0 torchprofile==0.0.4, all of which leave
torch, NumPy and ONNX as constraints.txt pins them (pip install -c constraints.txt -e '.[peers]'). A method that is not
installed is left out.
"""

from __future__ import annotations

from nas.runs.folders import WEIGHTS
from search_spaces.command import start

if __name__ == "__main__":
    start.prepare()

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from nas import runs
from nas.exporting.winner import load_winners
from nas.proving import search as proving
from nas.proving.search import find_search
from nas.pruning.latency import measure, reach
from nas.pruning.selection import Unreachable
from nas.runs.baselines import EQUAL
from nas.runs.checkpoint import load_tensors, save_tensors
from nas.training.recipe import TrainConfig
from scripts.pruning_peers.child import Child, ChildFailed
from scripts.pruning_peers.networks import train
from scripts.search_peers.comparison import Made, Result, as_text, compare, count_macs
from scripts.search_peers.compute import epochs_for, winner_compute
from scripts.search_peers.methods import METHODS, NEEDS, Cut, Given
from scripts.search_peers.shapes import shaped
from search_spaces import UserError
from search_spaces.command import Flags, flag, parse, run
from search_spaces.command.files import sha256, write_json
from search_spaces.deployed import deployed

# `search`: winners of each have names of their own.
FREE = ("run", "search", "winners", "methods", "samples", "peer_limit_s", "device", "num_workers")
LEAST = 1 / 3  # of a share of the time: the share of the MACs that it is looked for from


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run of the search (default: the newest with a retrained network)")
    search: str | None = flag(None, "search folder of the run (default: the newest)")
    winners: tuple[str, ...] = flag((), "retrained winners to compare (default: all that are faster)")
    methods: tuple[str, ...] = flag(tuple(METHODS), "to compare")
    images: int = flag(256, "training images that importance is taken from, or norms are measured on", minimum=1)
    round_to: int = flag(8, "widths become multiples of this", minimum=1)
    samples: int = flag(40, "undisturbed samples of each network that is timed", minimum=2)
    peer_limit_s: float = flag(600.0, "seconds after which a step of Torch-Pruning is given up", above=0)
    device: str = flag("auto", "cpu, cuda, …: that fine-tunes")
    num_workers: int = flag(0, "processes that load the images (0: this one)", minimum=0)


class Bench:
    """A run's fine-tuned network, and the winners that others are made in the place of.

    Raises:
        UserError: what `find_search` raises; no fine-tuned network; no winner of that name, or none that is faster;
            a bench of other settings or another fine-tuned network.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.search = search = find_search(proving.Config(run=config.run, search=config.search))
        if search.whole is None:
            raise UserError(f"{search.run_folder} was not begun with nas.finetune: there is no network to prune")
        if unknown := [name for name in config.winners if name not in search.winners]:
            raise UserError(f"--winners {unknown[0]} is no retrained winner; choose from {', '.join(search.winners)}")
        names = config.winners or tuple(search.winners)
        self.whole, *winners = load_winners(search.run_folder, (runs.WHOLE, *names))
        self.folder, self.size = search.run_folder / "bench-peers", search.space.image_size
        _begin(self.folder, config, self.whole.folder)
        self.data = runs.load_run_data(search.run_folder)
        models = {winner.name: winner.model() for winner in winners}
        times = self._times_ms({runs.WHOLE: self.whole.model(), **models})
        self.shares = {name: times[name] / times[runs.WHOLE] for name in models}
        self.winners = {name: model for name, model in models.items() if self.shares[name] < 1 - EQUAL}
        if not self.winners:
            raise UserError(f"no winner of {search.name} is faster than the fine-tuned network")
        self._cuts: dict[str, Cut] = {}

    def run(self, methods: Sequence[str]) -> Result:
        """Makes what is not there yet, and compares all."""
        made = {runs.WHOLE: Made("", "nas.finetune", self.whole.model(), self._settings(runs.WHOLE).epochs)}
        failed: dict[str, str] = {}
        for winner, model in self.winners.items():
            made[winner] = Made(winner, "search", model, self._settings(winner).epochs)
            for method in methods:
                try:
                    made[f"{method}-{winner}"] = self._made(winner, method)
                except (ChildFailed, Unreachable, ValueError) as error:  # the others go on
                    failed[f"{method}-{winner}"] = f"{type(error).__name__}: {error}"[:200]
        result = compare(made, self.search, self.data.test, self.config.samples, failed)
        write_json(self.folder / "result.json", asdict(result))
        return result

    def _made(self, winner: str, method: str) -> Made:
        """For as much compute as the winner was trained for."""
        name, model, count = f"{method}-{winner}", self._smaller(winner, method), len(self.data.train)
        settings, compute = self._settings(winner), winner_compute(self.search, winner, count)
        epochs = epochs_for(compute, count_macs(model, self.size), settings, count)
        print(f"{name}: {epochs} epochs have the {compute:.3g} MACs of {winner}'s training", flush=True)
        settings = replace(settings, epochs=epochs, device=self.config.device, num_workers=self.config.num_workers)
        return Made(winner, method, train(model, settings, self.folder / name, self.data, name, self.size), epochs)

    def _settings(self, name: str) -> TrainConfig:
        return runs.begun(self.search.trained(name), TrainConfig)

    # ---- as fast as a winner

    def _smaller(self, winner: str, method: str) -> nn.Module:
        """What the method leaves of the fine-tuned network in the winner's time, found or read."""
        path = self.folder / f"{method}-{winner}" / "cut.safetensors"
        trained = sha256(self.search.trained(winner) / WEIGHTS)
        if not path.exists():
            model, trials = self._found(winner, method)
            save_tensors(path, model.state_dict(), {"trials": trials, "winner_sha256": trained})
        tensors, info = load_tensors(path)
        if info.get("winner_sha256") != trained:
            raise UserError(f"{winner} has been trained anew since {path} was made; move {path.parent} away")
        return shaped(self._given.model, tensors)

    def _found(self, winner: str, method: str) -> tuple[nn.Module, list[tuple[float, float]]]:
        """With the shares of the MACs, and of the winner's time, of all that were tried."""
        tried: dict[float, nn.Module] = {}
        cut = self._cut(method)

        def latency_share(macs_share: float) -> float:
            tried[macs_share] = cut(macs_share)
            times = self._times_ms({"winner": self.winners[winner], "cut": deployed(tried[macs_share])})
            share = times["cut"] / times["winner"]
            print(f"{method}: {macs_share:.3f} of the MACs, {share:.3f} of the time of {winner}", flush=True)
            return self.shares[winner] * share

        share, trials = reach(self.shares[winner], latency_share, LEAST * self.shares[winner])
        return tried[share], [(t.macs_share, t.latency_share / self.shares[winner]) for t in trials]

    def _cut(self, method: str) -> Cut:
        if method not in self._cuts:
            self._cuts[method] = METHODS[method](self._given)
        return self._cuts[method]

    @cached_property
    def _given(self) -> Given:
        config, whole = self.config, self.whole
        about = (self.size, self.data, config.images, config.round_to, self.folder)
        return Given(whole.folder, whole.trained_model(), *about, Child(config.peer_limit_s))

    def _times_ms(self, models: dict[str, nn.Module]) -> dict[str, float]:
        timings = measure(models, self.size, self.search.backend, self.config.samples).timings
        return {name: timings[name].min_ms for name in models}


def _begin(folder: Path, config: Config, whole: Path) -> None:
    """Takes down what everything in the folder depends on, or compares it.

    Raises:
        UserError: it was begun with something else, or nobody knows with what.
    """
    weights = sha256(whole / WEIGHTS)
    if (folder / "config.json").exists():
        runs.reopen(folder, config, FREE, whole_sha256=weights)
    elif any(folder.glob("*/cut.safetensors")):
        raise UserError(f"{folder} has networks, but no config.json that has their settings; move it away")
    else:
        runs.begin(folder, config, whole_sha256=weights)


def bench(config: Config) -> Result:
    """Raises UserError if a method is unknown or none is installed, and what `Bench` raises."""
    if unknown := [name for name in config.methods if name not in METHODS]:
        raise UserError(f"--methods {unknown[0]} is unknown; choose from {', '.join(METHODS)}")
    methods = [name for name in config.methods if _is_installed(name)]
    if not methods:
        raise UserError("none of the --methods is installed; install one, or give nas.prune")
    result = Bench(config).run(methods)
    print(as_text(result))
    return result


def _is_installed(method: str) -> bool:
    installed, command = NEEDS.get(method, (lambda: True, ""))
    if not installed():
        print(f"{method} is not installed and left out ({command})")
    return installed()


def main(argv: Sequence[str] | None = None) -> None:
    bench(parse(Config, argv, "python -m scripts.bench_search_peers", __doc__ or ""))


if __name__ == "__main__":
    run(main, "the same command goes on")
