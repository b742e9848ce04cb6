"""Which winners a command trains, by which settings, and in what order: one after another, or several at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from nas import runs
from nas.data import Splits
from nas.distributed import process
from nas.networks.start import check_start
from nas.objective.precisions import Precision
from nas.training.parallel import train_parallel
from nas.training.progress import check_epochs
from nas.training.recipe import check_fits, check_used, finetune_epochs, with_recipe
from nas.training.teacher import may_move, teacher_facts
from nas.training.winner import ALL_DATA, DIGITS_EPOCHS, FREE, Config, Job, train_winner
from search_spaces import UserError, macs
from search_spaces.command import amend, check_given, fill
from search_spaces.command.files import read_json
from search_spaces.command.typed import read_typed

NO_NETWORKS = 'names no networks; give a search\'s result.json, or [{"name": …, "arch": …}, …]'


def configure(config: Config) -> tuple[Config, Path, list[Job]]:
    """The config, the run's folder and what to train; what was not given is as it was begun, or suits the images."""
    runs.check_name("--suffix", config.suffix)
    if config.resume:
        begun = to_go_on_with(config)
        check_given(config, begun, begun.run, ("ray_address",))
        config = fill(config, begun)
    elif config.all_data and config.suffix is None:
        config = amend(config, suffix=ALL_DATA)
    _check_all_data(config)
    config.check_workers()
    if config.scheduler and not (config.ray_workers or config.resume):
        raise UserError(f"--scheduler {config.scheduler} is for --ray-workers; give both or none")
    return config, *make_jobs(config)


def _check_all_data(config: Config) -> None:
    """UserError if it trains on the search split, and asks for accuracies on that."""
    asks = {"--patience": config.patience, "--scheduler asha": config.scheduler == "asha"}
    for name in (name for name, value in asks.items() if config.all_data and value):
        raise UserError(f"{name} needs accuracies on the search split, which --all-data trains on; leave one out")


def find_winners(config: Config) -> tuple[Path, str | None, dict[str, dict[str, Any]]]:
    """The run's folder, the name of its search (None with `archs`) and the winners to train, by name.

    Raises:
        UserError: no search has picked winners, or none of that name; no networks in the file of `archs`.
    """
    if config.archs:
        return _read_archs(config, Path(config.archs))
    runs.check_name("--search", config.search)
    pattern = f"{config.search or 'search*'}/result.json"
    run_folder = runs.find_run(config.run, pattern, "python -m nas.search")
    found = runs.newest(run_folder, pattern)
    assert found is not None
    winners = {network["name"]: dict(network) for network in _read_networks(found)}
    if not winners:
        raise UserError(f"{found.parent} picked no winner; go on with nas.search --resume and limits that can be met")
    return run_folder, found.parent.name, _named(config, winners, run_folder, found.parent)


def _begun_winners(config: Config) -> tuple[Path, str | None, dict[str, dict[str, Any]]] | None:
    """What `find_winners` has found for a resumed command, if its search or file of networks is there no more.

    The networks are in their folders, all of them: they are begun at once.
    """
    if not config.resume:
        return None
    run_folder = runs.find_run(config.run, "retrain/*/config.json", "python -m nas.retrain")
    source = Path(config.archs) if config.archs else run_folder / str(config.search) / "result.json"
    if source.exists() or len(winners := _begun(config, run_folder)) < len(config.winners):
        return None
    return run_folder, config.search, winners


def _begun(config: Config, run_folder: Path) -> dict[str, dict[str, Any]]:
    """Of the winners that the config names those that were begun, by name, as their folders say."""
    folders = {name: run_folder / "retrain" / folder_name(name, config.suffix) for name in config.winners}
    begun = {name: folder for name, folder in folders.items() if (folder / "config.json").exists()}
    return {name: {"name": name, **_searched(runs.begun_with(Searched, f))} for name, f in begun.items()}


def _named(
    config: Config, winners: dict[str, dict[str, Any]], run_folder: Path, where: Path
) -> dict[str, dict[str, Any]]:
    """The winners that the config names, or all; on resume those that have been begun, too, if they are none now."""
    known = {**_begun(config, run_folder), **winners} if config.resume else winners
    if unknown := [name for name in config.winners if name not in known]:
        raise UserError(f"no winner {', '.join(unknown)} in {where}; choose from {', '.join(winners)}")
    return {name: known[name] for name in config.winners or winners}


def _read_archs(config: Config, path: Path) -> tuple[Path, None, dict[str, dict[str, Any]]]:
    """A search's result names its run, unless --run does."""
    if config.search:
        raise UserError(f"--archs {path} and --search {config.search} are two sources of networks; give one of them")
    of_run = path.parent.parent if path.name == "result.json" and (path.parent.parent / "run.json").exists() else None
    run = config.run or (str(of_run.resolve()) if of_run else None)
    run_folder = runs.find_trained(run)
    space = runs.load_classes_info(run_folder).search_space()
    networks = _read_networks(path)
    if not networks:
        raise UserError(f"{path} {NO_NETWORKS}")
    for network in networks:
        space.from_json(network["arch"])
    named: dict[str, dict[str, Any]] = {network["name"]: dict(network) for network in networks}
    if len(named) < len(networks):
        raise UserError(f"two networks in {path} have the same name; give each its own")
    return run_folder, None, _named(config, named, run_folder, path)


class Searched(TypedDict):
    """A network, and the precision that it was searched in."""

    arch: dict[str, Any]
    precision: NotRequired[Precision]


class Network(Searched):
    """Of a file of networks."""

    name: runs.Name


def _read_networks(path: Path) -> list[Network]:
    """UserError if the file is neither a list of networks nor a search's result."""
    found = read_json(path)
    networks, where = (found.get("winners"), "winners") if isinstance(found, dict) else (found, "entry")
    try:
        return read_typed(list[Network], networks, where)
    except ValueError as error:
        raise UserError(f"{path} {NO_NETWORKS} ({error})") from None


def to_go_on_with(given: Config) -> Config:
    """The flags of the newest command that had those given, rather of one that has something left to train.

    Raises:
        UserError: there is none.
    """
    pattern = "retrain/*/config.json"
    run_folder = runs.find_run(given.run, pattern, "python -m nas.retrain")

    def order(path: Path) -> tuple[bool, int]:
        over = any((path.parent / name).exists() for name in ("result.json", "stopped.json"))
        return over, -path.stat().st_mtime_ns

    for path in sorted(run_folder.glob(pattern), key=order):
        begun = runs.begun(path.parent, Config)
        runs.check_name(f"--search in {path}", begun.search)
        same = all(getattr(given, flag) in (None, getattr(begun, flag)) for flag in ("search", "archs", "suffix"))
        same = same and (begun.all_data or not given.all_data)
        named = {folder_name(winner, begun.suffix) for winner in given.winners}
        if same and (not named or path.parent.name in named):
            return replace(begun, run=given.run or str(run_folder))
    raise UserError(
        f"nothing in {run_folder}/retrain was begun with these --search, --archs, --suffix or --winners; "
        "leave them out, or --resume"
    )


def folder_name(winner: str, suffix: str | None) -> str:
    """UserError if it is none, as of names in a config.json that someone sent."""
    name = f"{winner}-{suffix}" if suffix else winner
    runs.check_name("a winner, with --suffix,", name)
    return name


def _begin(jobs: Sequence[Job]) -> None:
    """Begins all at once: --resume goes on with the same networks and settings, whichever was being trained.

    What a kill has left out is begun as the others were, not as the command that goes on with them.
    """
    begun = [job for job in jobs if job.is_begun]
    for job in begun:
        runs.record(job.folder, job.changed)
    command, like = runs.command_line(), dict[str, Any]()
    if begun:
        command, before = runs.command_of(begun[0].folder), runs.begun(begun[0].folder, Config)
        like = {"run": before.run, "resume": before.resume}
    with runs.called_as(command):
        for job in jobs:
            if job not in begun:
                config = replace(job.config, **like)
                runs.begin(job.folder, config, **_searched(job.winner), **teacher_facts(config))


def _searched(network: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` says of a network, which of float32 is only its arch."""
    return {name: network[name] for name in ("arch", "precision") if network.get(name) not in (None, "float32")}


def make_jobs(config: Config) -> tuple[Path, list[Job]]:
    """The run's folder, and a job for each winner that the config names; all are checked before the first is trained.

    What was not given is as the winner was begun with, or suits the images.
    """
    run_folder, search, winners = _begun_winners(config) or find_winners(config)
    info = runs.load_classes_info(run_folder)
    space = info.search_space()
    if config.init == "pretrained-slice":
        check_start(run_folder)
    new = config
    if not config.resume:
        usual = space.finetune if _starts_from_weights(run_folder) else space.recipe
        suited = with_recipe(config, info.image_size, info.data.data, DIGITS_EPOCHS, usual)
        if suited.is_finetuning:
            suited = replace(suited, epochs=finetune_epochs(info.splits.to_train(config.all_data)))
        new = fill(config, suited)
    check_fits(new, space)
    check_used(new)
    new = amend(new, search=search, winners=tuple(winners))  # a later search changes nothing on --resume
    jobs = list[Job]()
    for name, winner in winners.items():
        folder = run_folder / "retrain" / folder_name(name, config.suffix)
        job = Job(new, folder, winner)
        if config.resume and job.is_begun:
            job = _reopen(job, run_folder, info.splits)
        else:
            runs.check_new(folder, "--suffix, or name others with --winners")
        jobs.append(job)
        if job.test_accuracy is not None:
            print(f"{folder} is finished: nothing to train")
    return run_folder, jobs


def job_like(winner: Path, network: dict[str, Any], networks: Path, splits: Splits, local: Mapping[str, Any]) -> Job:
    """A job that trains a network beside the winner, in a folder of its name, as the winner was trained; if it was
    begun, it goes on as it was.

    Args:
        winner: its folder.
        network: name and arch, as in the file `networks`, by which nas.retrain could go on with it, too.
        splits: of the run.
        local: settings of this process: device and num_workers.
    """
    folder = winner.with_name(network["name"])
    if (folder / "config.json").exists():
        config = replace(runs.begun(folder, Config), resume=True, **local)
        return _reopen(Job(config, folder, network), folder.parents[1], splits)
    begun = runs.begun(winner, Config)
    own: dict[str, Any] = {
        "winners": (network["name"],),
        "archs": str(networks),
        "search": None,
        "suffix": None,
        "resume": False,
    }
    return Job(replace(begun, ray_workers=0, ray_address=None, scheduler=None, **own, **local), folder, network)


def _reopen(job: Job, run_folder: Path, splits: Splits) -> Job:
    """The job with the settings that it was begun with, but those that were given and may differ."""
    begun = runs.begun(job.folder, Config)
    config = fill(job.config, begun)
    if job.test_accuracy is not None:  # others may end earlier
        config = amend(config, epochs=begun.epochs)
    check_epochs(job.folder, config.epochs, config.steps_per_epoch(splits.to_train(config.all_data)))
    if config.teacher:
        config = amend(config, teacher=runs.follow(config.teacher, run_folder))
    facts = {**_searched(job.winner), **teacher_facts(config)}
    changed = runs.reopen(job.folder, config, FREE, (*may_move(config), "epochs"), **facts)
    return replace(job, config=config, changed=changed)


def _starts_from_weights(run_folder: Path) -> bool:
    """Whether the run's supernet was fine-tuned: then its winners are, too."""
    file = run_folder / "supernet" / "config.json"
    begun = read_json(file) if file.exists() else None
    return isinstance(begun, dict) and begun.get("init") is not None


def train_all(config: Config, run_folder: Path, jobs: Sequence[Job]) -> None:
    """Trains what is not trained yet, `config.ray_workers` at a time."""
    if config.ray_workers:
        _train_parallel(config, run_folder, jobs)
        return
    data, begin = runs.load_run_data(run_folder), partial(_begin, jobs)
    left = [job for job in jobs if job.test_accuracy is None]
    space = runs.load_classes_info(run_folder).search_space()
    costs = [macs(space, space.from_json(job.winner["arch"])) for job in left]
    for number, job in enumerate(left):
        after = [cost / costs[number] for cost in costs[number + 1 :]]
        train_winner(job.config, run_folder, job.folder.name, job.winner, data, begin=begin, after=after)


def _train_parallel(config: Config, run_folder: Path, jobs: Sequence[Job]) -> None:
    if process.world_size() > 1:
        raise UserError("--ray-workers trains several networks, torchrun one in several processes; use one of them")
    if len({job.config.epochs for job in jobs}) > 1:
        raise UserError("the networks were begun with different --epochs; name those of one number with --winners")
    _begin(jobs)
    usual = "asha" if config.archs and not config.all_data else "none"
    train_parallel(config, run_folder, jobs, config.scheduler or usual)
