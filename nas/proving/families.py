"""The retrained winners of several runs on the same images, timed together: which family is best at which latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from latency_lut.backends.base import Backend, Job
from nas import runs
from nas.comparison.compare import OUT
from nas.comparison.compare import Config as CompareConfig
from nas.distributed.device import pick_device
from nas.exporting.winner import Winner, load_winners
from nas.proving.answers import BUSY, accuracy_of, right_in, warnings_in
from nas.proving.families_page import as_text, families_page
from nas.proving.reigns import Families, Network, reigns
from nas.proving.search import Config as SearchConfig
from nas.proving.search import Search, find_search
from nas.pruning.latency import measure_twice
from search_spaces import UserError, macs, num_params
from search_spaces.command import check_idle
from search_spaces.command.files import slug, write_json, write_text


def compare_families(config: CompareConfig) -> Path:
    """Writes the comparison and returns its folder.

    Raises:
        UserError: fewer than two runs, runs of other images, in another precision, or without a retrained winner; flags
            of other comparisons.
    """
    check_idle(config, ("max_latency_ms", "max_params", "points"), "searches, and --winners compares networks")
    names = tuple(dict.fromkeys(config.searches))
    if len(names) < 2:
        raise UserError(f"--winners compares runs: name two or more, such as {runs.RUNS}/a {runs.RUNS}/b")
    searches = [find_search(SearchConfig(run=name)) for name in names]
    _check_images(searches)
    _check_precisions(searches)
    found = _compared(config, searches)
    folder = Path(config.out) if config.out else OUT / slug("-".join(s.run_folder.name for s in searches))
    write_json(folder / "families.json", asdict(found))
    write_text(folder / "families.html", families_page(found))
    print(f"{as_text(found)}\nwrote {folder}/families.html and families.json")
    return folder


def _check_images(searches: Sequence[Search]) -> None:
    """UserError unless all runs have the same test images."""
    first, *others = ((s.run_folder, runs.load_classes_info(s.run_folder).splits.digest) for s in searches)
    for folder, digest in others:
        if digest != first[1]:
            raise UserError(
                f"{folder} was made with other images, or other splits, than {first[0]}; give runs of the same --data, "
                "--split-seed and fractions"
            )


def _check_precisions(searches: Sequence[Search]) -> None:
    """UserError unless the winners of all runs are in the same precision: it is what they are timed in."""
    first, *others = searches
    for other in others:
        if other.precision != first.precision:
            raise UserError(
                f"the winners of {other.run_folder} are in {other.precision}, those of {first.run_folder} in "
                f"{first.precision}; give runs whose newest searches are in one precision"
            )


def _compared(config: CompareConfig, searches: Sequence[Search]) -> Families:
    winners = list(_winners(searches))
    sessions_ms, busy = _timed([w for _, w in winners], searches[0].backend, config.samples)
    right = [row for search in searches for row in _right(config, search, [w for s, w in winners if s is search])]
    networks = [
        Network(
            _family(search, searches),
            str(search.run_folder),
            winner.name,
            winner.info.image_size,
            accuracy_of(row),
            sessions,
            num_params(search.space, winner.arch),
            macs(search.space, winner.arch),
        )
        for (search, winner), row, sessions in zip(winners, right, sessions_ms, strict=True)
    ]
    order = sorted(range(len(networks)), key=lambda i: networks[i].latency_ms)
    networks, right = [networks[i] for i in order], [right[i] for i in order]
    return Families(
        command=runs.command_line(),
        runtime=str(searches[0].backend.describe()),
        warnings=(*([BUSY] if busy else []), *warnings_in(searches[0].precision)),
        num_images=len(right[0]),
        networks=tuple(networks),
        reigns=tuple(reigns(networks, right)),
    )


def _winners(searches: Sequence[Search]) -> Iterator[tuple[Search, Winner]]:
    """Of each search, and the fine-tuned network that it started from."""
    for search in searches:
        whole = (runs.WHOLE,) if search.whole is not None else ()
        yield from ((search, winner) for winner in load_winners(search.run_folder, (*whole, *search.winners)))


def _family(search: Search, searches: Sequence[Search]) -> str:
    alike = [other for other in searches if other.space.name == search.space.name]
    return search.space.name if len(alike) == 1 else f"{search.space.name} ({search.run_folder.name})"


def _right(config: CompareConfig, search: Search, winners: Sequence[Winner]) -> list[np.ndarray]:
    """(images,) of each network of one run, whether it is right."""
    data, device = runs.load_run_data(search.run_folder), pick_device(config.device)
    models = [winner.model() for winner in winners]
    size = winners[0].info.image_size
    return list(right_in(search.precision, models, data, size, device, config.num_workers))


def _timed(winners: Sequence[Winner], backend: Backend, samples: int) -> tuple[list[tuple[float, ...]], bool]:
    """The fastest run of each network in each session, all interleaved; whether the machine was busy."""
    times, busy = measure_twice({str(i): _job(winner) for i, winner in enumerate(winners)}, backend, samples)
    return list(times.values()), busy


def _job(winner: Winner) -> Job:
    size = winner.info.image_size
    return Job((winner.space.in_chans, size, size), winner.model)
