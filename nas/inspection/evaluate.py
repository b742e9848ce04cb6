"""Networks of a run on one of its splits, class by class: figures as JSON, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nas import runs
from nas.data import Images
from nas.data.batches import eval_batches, normalize
from nas.distributed.device import pick_device
from nas.evaluation.quantized import quantized
from nas.exporting.winner import Winner, load_winners
from nas.inspection.confusion import Confusion
from nas.inspection.examples import Answers
from nas.inspection.page import evaluation_page
from nas.inspection.text import as_text
from nas.networks.inherit import calibration_batches, calibration_count, inherited, load_supernet
from nas.objective import tables
from nas.objective.costs import Costs
from nas.objective.mes import PUBLISHED, Objective
from nas.objective.metrics import LATENCY
from nas.objective.precisions import RANGE_IMAGES, precision_of
from nas.runs.folders import WEIGHTS
from nas.searching.precisions import of_path
from nas.searching.result import files_of, objective_of, read_result, recorded_tables, tables_of
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import Flags, check_idle, flag
from search_spaces.command.files import read_json, sha256, slug, write_json, write_text

BARE = ("largest", "smallest")


@dataclass(frozen=True)
class Config(Flags):
    arch: tuple[str, ...] = flag(
        (), "networks: named archs of the space, winners of the run's searches, JSON files (default: largest smallest)"
    )
    retrained: tuple[str, ...] = flag((), "networks in the run's retrain/, with the weights they were trained to")
    run: str | None = flag(None, "run of the supernet (default: the newest)")
    split: Literal["search", "test"] = flag("search", "images to evaluate on; test for final figures only")
    num_images: int | None = flag(None, "images of the split, evenly spaced (default, and at most: all)", minimum=1)
    calibration_images: int | None = flag(
        None,
        "training images to recalibrate inherited norms on, 0: none (default: what the supernet needs)",
        minimum=0,
    )
    search: str | None = flag(
        None,
        "search folder of the run, whose tables and MES count (default: the newest in the precisions "
        "that the networks were searched in)",
    )
    table: str | None = flag(
        None, "latency table instead, for the published MES (default, without a search: the newest that fits)"
    )
    name: str | None = flag(None, "of the files written (default: made of the networks and the split)")
    batch_size: int = flag(256, "images of an evaluation batch", minimum=1)
    device: str = flag("auto", "cpu, cuda, …")
    num_workers: int = flag(0, "processes that load the images (0: this one)", minimum=0)


@dataclass(frozen=True)
class Network:
    """What is evaluated, under the name that its figures have.

    Args:
        precision: that its accuracy and its costs are of; `model` computes as a file in int8 does, if it is that.
        weights_sha256: of the file of retrained weights.
    """

    name: str
    weights: Literal["inherited", "retrained"]
    arch: Arch
    model: nn.Module
    precision: str
    weights_sha256: str | None = None

    def in_precision(self, ranges: Sequence[Tensor]) -> Network:
        """As computed in its precision; floating point of any size answers alike.

        Args:
            ranges: normalized images that int8 finds the ranges of activations on.
        """
        return replace(self, model=quantized(self.model, ranges)) if self.precision == "int8" else self


def evaluate(config: Config) -> Path:
    """Evaluates the networks and returns the JSON file's path; the page lies beside it.

    Raises:
        UserError: no finished supernet, an unknown network or one of another space, none of the searches in the
            precisions of the networks, changed data.
    """
    runs.check_name("--name", config.name)
    if config.retrained and not config.arch:
        check_idle(config, ("calibration_images",), "networks with the supernet's weights (--arch)")
    folder = runs.find_trained(config.run)
    space = runs.load_classes_info(folder).search_space()
    archs = find_archs(folder, space, config.arch or (() if config.retrained else BARE))
    trained = load_winners(folder, tuple(dict.fromkeys(config.retrained))) if config.retrained else []
    objective, paths = _objective(config, folder, space, _searched_in(archs, trained))
    latencies = {precision: tables.load_tables(own, space) for precision, own in paths.items()}
    costs = {precision: Costs(space, own, objective, precision) for precision, own in latencies.items()}
    device = pick_device(config.device)
    data = runs.load_run_data(folder)
    split = data.search if config.split == "search" else data.test
    images = split.spread(config.num_images or len(split))
    networks, calibration_images = _networks(config, folder, archs, trained, data.train, device, tuple(paths))
    count = RANGE_IMAGES if any(network.precision == "int8" for network in networks) else 0
    ranges = calibration_batches(data.train, space.image_size, count, device, config.num_workers)
    networks = [network.in_precision(ranges) for network in networks]
    found, answers = look(networks, images, space, device, config.batch_size, config.num_workers)
    shown = [
        {kind: a.examples(images, space.image_size, right=kind == "right") for kind in ("right", "wrong")}
        for a in answers
    ]
    path = folder / "evaluate" / f"{config.name or _name(networks, config.split)}.json"
    result = {
        "command": runs.command_line(),
        "run": folder.resolve().name,
        "space": space.name,
        "split": config.split,
        "digest": data.splits.digest,
        "num_images": found[0].num_images,
        "calibration_images": calibration_images,
        "range_images": sum(map(len, ranges)),
        "objective": objective.to_json(),
        **recorded_tables({precision: tables.record(own) for precision, own in paths.items()}),
        "table_warnings": [text for own in latencies.values() for text in tables.warnings(own)],
        "classes": list(data.classes),
        "class_sizes": found[0].class_sizes.tolist(),
        "networks": [
            _figures(n, space, c, costs[n.precision].one(n.arch)) | some
            for n, c, some in zip(networks, found, shown, strict=True)
        ],
    }
    write_json(path, result)
    print(f"{as_text(result)}\n")
    write_text(path.with_suffix(".html"), evaluation_page(result))
    print(f"wrote {path} and {path.stem}.html")
    return path


def _name(networks: Sequence[Network], split: str) -> str:
    names = "+".join(slug(network.name) for network in networks)[:100]
    return names if split == "search" else f"{names}-{split}"


# ---- networks


def find_archs(folder: Path, space: SearchSpace, names: Sequence[str]) -> dict[str, tuple[Arch, str | None]]:
    """Archs by name: those of the space, winners of the run's searches, JSON files by their stems; of a winner the
    precision, too, that it was searched in.

    Raises:
        UserError: an unknown name, a file that is no arch of the space, two archs of one name.
    """
    winners = {
        winner["name"]: winner
        for path in sorted(folder.glob("search*/result.json"))
        for result in [read_result(path.parent)]
        for winner in [*result["winners"], *result["earlier_winners"]]
    }
    archs: dict[str, tuple[Arch, str | None]] = {}
    for name in names:
        precision = None
        if name.lower() in space.named:
            label, arch = name.lower(), space.named[name.lower()]
        elif name in winners:
            label, arch, precision = name, space.from_json(winners[name]["arch"]), precision_of(winners[name])
        else:
            label, arch = Path(name).stem, _read_arch(name, space, [*space.named, *winners])
        if archs.setdefault(label, (arch, precision))[0] != arch:
            raise UserError(f"--arch gives the name {label} to two networks; rename the file {name}")
    return archs


def _searched_in(archs: Mapping[str, tuple[Arch, str | None]], trained: Sequence[Winner]) -> dict[str, str]:
    """Precisions by names; of networks that no search has found there is none."""
    found = {name: precision for name, (_, precision) in archs.items() if precision}
    return {**found, **{winner.name: winner.precision for winner in trained if winner.name != runs.WHOLE}}


def _read_arch(name: str, space: SearchSpace, known: Sequence[str]) -> Arch:
    if not Path(name).is_file():
        raise UserError(f"--arch {name} is neither a file nor one of {', '.join(known)}")
    data = read_json(Path(name))
    other = data.get("space", space.name) if isinstance(data, dict) else space.name
    if other != space.name:
        raise UserError(f"--arch {name} is of space {other}, and the run is of {space.name}; give another --run")
    try:
        return space.from_json(data)
    except UserError as error:
        raise UserError(f"--arch {name}: {error}") from None


def _networks(
    config: Config,
    folder: Path,
    archs: Mapping[str, tuple[Arch, str | None]],
    trained: Sequence[Winner],
    train: Images,
    device: torch.device,
    precisions: Sequence[str],
) -> tuple[list[Network], int]:
    """The networks on the device, and how many training images the norms of those inherited were recalibrated on.

    Args:
        precisions: that costs are known in: a network is of the one that it was searched in if that is among them,
            else of the first.
    """

    def among(precision: str | None) -> str:
        return precisions[0] if precision is None or precision not in precisions else precision

    networks, count = [], 0
    if archs:
        supernet = load_supernet(folder, device)
        count = calibration_count(supernet, config.calibration_images)
        calibration = calibration_batches(train, supernet.space.image_size, count, device, config.num_workers)
        count = sum(map(len, calibration))
        networks = [
            Network(name, "inherited", arch, inherited(supernet, arch, calibration), among(precision))
            for name, (arch, precision) in archs.items()
        ]
    if config.split == "search" and (seen := [winner.name for winner in trained if winner.all_data]):
        raise UserError(f"{seen[0]} was trained on the search split, too, by --all-data; give --split test")
    for winner in trained:
        model = winner.model().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        digest = sha256(winner.folder / WEIGHTS)
        precision = among(winner.precision)
        networks.append(Network(f"{winner.name} retrained", "retrained", winner.arch, model, precision, digest))
    return networks, count


@torch.inference_mode()
def look(
    networks: Sequence[Network],
    images: Images,
    space: SearchSpace,
    device: torch.device,
    batch_size: int,
    num_workers: int = 0,
) -> tuple[list[Confusion], list[Answers]]:
    """What each network takes for what, and its answers; every image is read once, for all of them.

    Raises:
        UserError: none of the images can be read.
    """
    found, answers = [Confusion(space.num_classes) for _ in networks], [Answers() for _ in networks]
    with tqdm(total=len(images), desc="evaluate", unit="image") as bar:
        for batch, labels in eval_batches(images, space.image_size, batch_size, num_workers):
            x = normalize(batch, device, images.normalization)
            for network, confusion, answer in zip(networks, found, answers, strict=True):
                logits = network.model(x)
                confusion.add(logits, labels)
                answer.add(logits, labels)
            bar.update(len(labels))
    if not found[0].num_images:
        raise UserError(f"none of the {len(images)} images can be read; see the warnings")
    return found, answers


# ---- figures


def _objective(
    config: Config, folder: Path, space: SearchSpace, searched_in: Mapping[str, str]
) -> tuple[Objective, dict[str, dict[str, Path]]]:
    """MES, and its tables by precision: those of a search, or the published MES by the table given or the newest that
    fits."""
    if config.search is not None and config.table is not None:
        raise UserError(f"--search {config.search} brings its own tables; leave out --table")
    found = None if config.table else _search(config, folder, searched_in)
    if found is None:
        paths = {LATENCY: Path(config.table)} if config.table else tables.newest(space)
        return PUBLISHED, {of_path(paths[LATENCY]) if paths else "float32": paths}
    result = read_result(found)
    objective = Objective(objective_of(result).terms, {})
    print(f"MES is that of {found}")
    try:
        return objective, {precision: files_of(own, folder) for precision, own in tables_of(result).items()}
    except UserError as error:
        print(f"{error}; until then latencies are left out")
        return objective, {precision: {} for precision in tables_of(result)}


def _search(config: Config, folder: Path, searched_in: Mapping[str, str]) -> Path | None:
    """The folder of the search named, or of the newest in the precisions of the networks; None where the run has none.

    Raises:
        UserError: the one named has not finished, or is not in these precisions, or none is.
    """
    runs.check_name("--search", config.search)
    paths = sorted(folder.glob(f"{config.search or 'search*'}/result.json"), key=lambda path: path.stat().st_mtime_ns)
    if config.search is not None and not paths:
        raise UserError(f"{folder} has no finished search {config.search}; see `ls {folder}`")
    known = {path.parent: tables_of(read_result(path.parent)) for path in paths}
    for search, own in reversed(known.items()):
        if all(precision in own for precision in searched_in.values()):
            return search
    if not known:
        return None
    search, own = next(reversed(known.items()))
    name = next(name for name, precision in searched_in.items() if precision not in own)
    raise UserError(
        f"{name} was searched in {searched_in[name]}, and {search} is in {' and '.join(own)}; give a --search of that, "
        "networks of one precision, or a --table, in whose precision all are then"
    )


def _figures(network: Network, space: SearchSpace, confusion: Confusion, costs: dict[str, Any]) -> dict[str, Any]:
    top5 = confusion.top5
    return {
        "name": network.name,
        "weights": network.weights,
        **({"weights_sha256": network.weights_sha256} if network.weights_sha256 else {}),
        "precision": network.precision,
        "arch": space.to_json(network.arch),
        "top1": asdict(confusion.top1),
        "top5": asdict(top5) if top5 else None,
        "mean_per_class": asdict(confusion.mean_per_class),
        **costs,
        "per_class": [asdict(accuracy) for accuracy in confusion.per_class],
        "confusion": confusion.counts.tolist(),
    }
