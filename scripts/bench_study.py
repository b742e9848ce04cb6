"""What recording an evaluation costs: in the file that a search keeps by itself, and in a SQLite database (--storage).

    python scripts/bench_study.py

Prints SQL statements and CPU time a trial, by turns; the ratio is the median over the pairs.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from nas.objective.costs import Costs
from nas.objective.mes import Objective
from nas.searching.study import Study
from search_spaces import DEFAULT_SPACE, Arch, get_space
from search_spaces.command import Flags, flag, parse, run


@dataclass(frozen=True)
class Config(Flags):
    space: str = flag(DEFAULT_SPACE, "search space")
    trials: int = flag(50, "trials recorded in each", minimum=1)


def bench(config: Config) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    space, rng = get_space(config.space), random.Random(0)
    costs = Costs(space, {}, Objective.of(num_params=1.0))
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(config.trials + 1)))
    statements: list[str] = []
    event.listen(Engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder) / "study.log", f"sqlite:///{folder}/study.db")
        file, database = (Study(place, "bench", space, costs.one, {}) for place in places)
        record_ms(file, archs[0]), record_ms(database, archs[0])
        statements.clear()
        pairs = [(record_ms(file, arch), record_ms(database, arch)) for arch in archs[1:]]
    print(f"{space.name}: {len(space.choices)} choices, {len(pairs)} trials in each")
    ours_ms, theirs_ms = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"file      {ours_ms:7.2f} ms of CPU time a trial")
    print(f"database  {theirs_ms:7.2f} ms, {len(statements) / len(pairs):.0f} SQL statements")
    print(f"database / file: {statistics.median(theirs / ours for ours, theirs in pairs):.1f}")


def record_ms(study: Study, arch: Arch) -> float:
    start = time.process_time()
    study.accuracies([arch], lambda new: iter([(new, [0.5] * len(new))]), 0)
    return 1e3 * (time.process_time() - start)


def main() -> None:
    bench(parse(Config, None, "python scripts/bench_study.py", __doc__ or ""))


if __name__ == "__main__":
    run(main)
