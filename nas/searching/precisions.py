"""The precisions that a search is in: each has latency tables of its own, and networks answer in its arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from latency_lut.backends.registry import BACKENDS
from latency_lut.measurement.build import BuildConfig, build_table
from latency_lut.tables.table import TABLES, LatencyTable
from nas.objective.costs import Costs, check_limits
from nas.objective.goals import Goals, split_name
from nas.objective.metrics import LATENCY
from nas.objective.precisions import Precision
from nas.objective.tables import load_tables, newest, record
from search_spaces import SearchSpace, UserError
from search_spaces.command import amend

BUILD = "python -m latency_lut.build --precision"

AnyGoals = TypeVar("AnyGoals", bound=Goals)
Json = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What a search is by in one precision.

    Args:
        table: as --table names its tables.
        tables: the same as `nas.objective.tables.record` has them.
    """

    costs: Costs
    table: tuple[str, ...]
    tables: Json


def parts_of(
    goals: Goals, asked: Sequence[Precision], space: SearchSpace, only: Collection[str] = ()
) -> dict[Precision, Part]:
    """The parts of a search, by precision; a table is measured only if the limits on all else can be met.

    Args:
        asked: precisions; none stands for that of the tables.
        only: fields of the choices that the search may shrink; none: all.

    Raises:
        UserError: as `in_each_precision`, `load_tables` and `check_limits`; a table of a precision that is no search's.
    """
    parts: dict[Precision, Part] = {}
    for precision, own in in_each_precision(goals, asked).items():
        objective, paths, wanted = own.objective(), own.tables(), precision if asked else None
        if not paths and own.needs_latency:
            paths = newest(space, wanted)
        found = precision if asked or own.table or not paths else of_path(paths[LATENCY])
        if found not in (known := get_args(Precision)):
            raise UserError(f"the table is of {found}; searches are in {', '.join(known)}, give one of these")
        _check(Costs(space, {}, objective, found), only, found, asked)
        if not paths and own.needs_latency:
            paths = {LATENCY: _build(space, wanted)}
        costs = Costs(space, load_tables(paths, space), objective, found)
        _check(costs, only, found, asked)
        parts[found] = Part(costs, own.table or tuple(map(str, paths.values())), record(paths))
    return parts


def _check(costs: Costs, only: Collection[str], precision: Precision, asked: Sequence[Precision]) -> None:
    """As `check_limits`; of several precisions the message names the one that cannot meet the limits."""
    try:
        check_limits(costs, only)
    except UserError as error:
        if not (others := [other for other in asked if other != precision]):
            raise
        without = f"or leave {precision} out by --precision {' '.join(others)}"
        raise UserError(f"in {precision} {error}, {without}") from None


def _build(space: SearchSpace, precision: Precision | None) -> Path:
    backend = BuildConfig().backend
    if precision and precision not in BACKENDS[backend].precisions:
        raise UserError(
            f"no table of {space.name} in {precision}: give one with --table; {backend} cannot measure it here"
        )
    of = f"latency table of {space.name}" + (f" in {precision}" if precision else "")
    print(f"no {of} under {TABLES}/: measuring this machine")
    build = BuildConfig(
        space=space.name, image_size=space.image_size, num_classes=space.num_classes, precision=precision
    )
    return build_table(build)


def in_each_precision(goals: AnyGoals, asked: Sequence[Precision]) -> dict[Precision, AnyGoals]:
    """The goals in each precision: the same, by the tables of that precision.

    Args:
        asked: none stands for that of the tables, float32 if there is none.

    Raises:
        UserError: a table that cannot be read or of a precision that is not asked for; one that has no table where
            others have, or not the tables that others have.
    """
    of = [_precision(text) for text in goals.table]
    mixed = len({*of}) > 1 and "int8" not in of  # float16 and float32, which a search records as float32
    if not asked or (mixed and [*asked] == [_common(of)]):
        return {_common(of): goals}
    if not goals.table:
        return dict.fromkeys(asked, goals)
    if other := [(text, p) for text, p in zip(goals.table, of, strict=True) if p not in asked]:
        text, precision = other[0]
        raise UserError(
            f"--table {text} is of {precision}, and the search of {' and '.join(asked)}; give one of that, by "
            f"{BUILD} {asked[0]}, or --precision {' '.join([*asked, precision])} with a table of each"
        )
    tables = {p: tuple(t for t, found in zip(goals.table, of, strict=True) if found == p) for p in asked}
    if missing := [precision for precision, found in tables.items() if not found]:
        raise UserError(f"no --table is of {missing[0]}; build one by {BUILD} {missing[0]}, or leave the precision out")
    names = {precision: sorted(split_name(text)[0] for text in found) for precision, found in tables.items()}
    if uneven := [precision for precision in asked if names[precision] != names[asked[0]]]:
        raise UserError(
            f"--table names {', '.join(names[asked[0]])} in {asked[0]} and {', '.join(names[uneven[0]])} in "
            f"{uneven[0]}; give the same devices in each precision"
        )
    return {precision: amend(goals, table=found) for precision, found in tables.items()}


def of_path(path: Path) -> Any:
    """The precision of the table in a file."""
    return LatencyTable.load(path).provenance.runtime.precision


def _precision(text: str) -> Any:
    return of_path(Path(split_name(text)[1]))


def _common(found: Sequence[Precision]) -> Precision:
    """That of tables of one MES: floating point of either size answers alike."""
    known = set(found) or {"float32"}
    if len(known) > 1 and "int8" in known:
        others = " ".join(sorted(known - {"int8"}))
        raise UserError(
            f"--table gives tables of int8 and {others}; one MES is of one precision: leave some out, or give "
            f"--precision {others} int8 to search in each"
        )
    return known.pop() if len(known) == 1 else "float32"
