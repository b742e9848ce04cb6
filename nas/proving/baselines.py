"""What nas.baselines does: trains the baselines of a search's winners, then tests and times all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nas import runs
from nas.distributed.device import pick_device
from nas.exporting.winner import load_winners
from nas.proving.answers import BUSY, accuracy_of, difference_of, right_in, warnings_in
from nas.proving.search import Config, Search, find_search
from nas.proving.training import (
    narrowed_folder,
    prune_whole,
    pruned_folder,
    say_how_long,
    train_narrowed,
    trained_otherwise,
)
from nas.pruning import recipe as recipes
from nas.pruning.latency import jobs_of, measure_twice
from nas.reporting.verdict import as_text
from nas.runs.baselines import FILE, Baselines, Kind, Network, pairs, read_baselines
from nas.runs.folders import WEIGHTS
from nas.runs.results import REMEDY, PrunedResult
from search_spaces.command.files import sha256
from search_spaces.command.typed import load_typed
from search_spaces.deployed import deployed


@dataclass(frozen=True)
class Entry:
    """A network to compare: its weights, and what its result says.

    Args:
        costs: parameters and MACs; of networks of the space all metrics of the search, and MES.
    """

    name: str
    kind: Kind
    winner: str
    folder: str
    model: nn.Module
    costs: dict[str, Any]


def compare_with_baselines(config: Config) -> Path:
    """Makes what is not there yet and returns the path of the comparison.

    Raises:
        UserError: what `find_search` raises; baselines begun otherwise, or images that have changed.
    """
    search = find_search(config)
    found = read_baselines(search.run_folder)
    if found is not None and _is_of(found, search, config):
        if not (changed := found.outdated(search.run_folder)):
            return _judged_again(found, search)
        print(f"{', '.join(changed)}: trained again since the comparison, which is made anew")
    say_how_long(search)
    missing = train_narrowed(config, search) | prune_whole(config, search)
    found = _compared(config, search, missing)
    path = found.write(search.run_folder)
    print(f"{as_text(found, found.warnings)}\nwrote {path}, which nas.report shows")
    return path


def _is_of(found: Baselines, search: Search, config: Config) -> bool:
    """Whether it compares the same."""
    same = (found.search, found.metric, found.max_loss) == (search.name, search.metric, config.max_loss)
    return same and [winner.name for winner in found.winners] == list(search.winners)


def _judged_again(found: Baselines, search: Search) -> Path:
    """The same figures by the limits and the recommendation that the search has now; the path of the comparison."""
    now = replace(found, broken_limits=_broken_limits(search), recommended=search.recommended)
    path = search.run_folder / FILE
    done = "is finished: nothing to do"
    if now != found:
        now.write(search.run_folder)
        done = "has the limits and the recommendation that the search has now"
    print(f"{as_text(now, now.warnings)}\n{path} {done}; remove it to measure again")
    return path


def _compared(config: Config, search: Search, missing: dict[str, str]) -> Baselines:
    entries, size = list(_entries(search)), search.space.image_size
    sessions_ms, warnings = _timed(config, search, entries)
    data, device = runs.load_run_data(search.run_folder), pick_device(config.device)
    models = [entry.model for entry in entries]
    answers = right_in(search.precision, models, data, size, device, config.num_workers)
    right = {entry.name: row for entry, row in zip(entries, answers, strict=True)}
    return Baselines(
        command=runs.command_line(),
        search=search.name,
        metric=search.metric,
        num_images=answers.shape[1],
        max_loss=config.max_loss,
        broken_limits=_broken_limits(search),
        runtime=str(search.backend.describe()),
        warnings=(*warnings, *warnings_in(search.precision), *trained_otherwise(search)),
        networks=tuple(_network(search, entry, right[entry.name], sessions_ms) for entry in entries),
        differences=tuple(difference_of(a.name, b.name, right[a.name], right[b.name]) for a, b in pairs(entries)),
        missing=missing,
        recommended=search.recommended,
    )


# ---- networks


def _entries(search: Search) -> Iterator[Entry]:
    """Each winner and then its baselines, the whole network first."""
    if search.whole is not None:
        yield _trained(search, runs.WHOLE, "whole", "")
    for winner in search.winners:
        yield _trained(search, winner, "winner", winner)
        if ((folder := narrowed_folder(search, winner)) / "result.json").exists():
            yield _trained(search, folder.name, "narrowed", winner)
        if ((folder := pruned_folder(search, winner)) / "result.json").exists():
            yield _pruned(folder, winner)


def _trained(search: Search, name: str, kind: Kind, winner: str) -> Entry:
    (found,) = load_winners(search.run_folder, (name,))
    return Entry(name, kind, winner, f"retrain/{name}", found.model(), search.costs.one(found.arch))


def _pruned(folder: Path, winner: str) -> Entry:
    network = load_typed(PrunedResult, folder / "result.json", REMEDY)["networks"]["pruned"]
    return Entry(folder.name, "pruned", winner, f"prune/{folder.name}", deployed(recipes.load(folder)), dict(network))


def _network(search: Search, entry: Entry, right: np.ndarray, sessions_ms: Mapping[str, tuple[float, ...]]) -> Network:
    times_ms = sessions_ms[entry.name]
    mes = entry.costs.get("mes")  # none of a pruned network: no table knows it
    if entry.kind == "pruned":
        mes = _mes(search, entry, sum(times_ms) / sum(sessions_ms[entry.winner]))
    return Network(
        entry.name,
        entry.kind,
        entry.winner,
        entry.folder,
        accuracy_of(right),
        times_ms,
        num_params=int(entry.costs["num_params"]),
        macs=int(entry.costs["macs"]),
        mes=mes,
        weights_sha256=sha256(search.run_folder / entry.folder / WEIGHTS),
    )


def _mes(search: Search, entry: Entry, times: float) -> float | None:
    """Of a pruned network, which the table does not know: at the winner's time by the table, times so much."""
    winner_ms = float(search.latencies_ms([search.winners[entry.winner]])[0])
    known = {**entry.costs, search.metric: times * winner_ms}
    objective = search.costs.objective
    return float(objective.mes(known)) if all(term.metric in known for term in objective.terms) else None


def _broken_limits(search: Search) -> tuple[str, ...]:
    """Metrics in which the largest network is beyond the limits of the search."""
    costs, limits = search.costs.one(search.space.largest), search.costs.objective.limits
    return tuple(name for name, limit in limits.items() if costs.get(name, 0) > limit)


# ---- times


def _timed(config: Config, search: Search, entries: Sequence[Entry]) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """The fastest run of each network in each session, all interleaved; why these deserve less trust, a line each."""
    jobs = jobs_of({entry.name: entry.model for entry in entries}, search.space.image_size)
    times, busy = measure_twice(jobs, search.backend, config.samples)
    warnings = [BUSY]
    here, there = search.backend.describe(), search.table.provenance.runtime
    if here != there:
        warnings.append(f"WARNING: the table is of another device or runtime: {there}; networks were timed by {here}")
    return times, warnings[0 if busy else 1 :]
