"""Search a trained supernet for networks that are accurate, fast and small.

Bare: the published joint slimming, of the newest supernet run by the newest latency table that fits it (built first if
there is none).
    python -m nas.search --alpha-latency 1.0 --alpha-size 0.5
    python -m nas.search --strategy predictor --budget 150 --seed 0
    python -m nas.search --table phone=p.json laptop=l.json --alpha-latency phone=1 laptop=2 --max-latency-ms phone=2
"""

from __future__ import annotations

from collections.abc import Sequence

from nas import runs
from nas.searching.search import Config, folder_of, search
from search_spaces.command import amend, check_given, fill, parse, run


def configure(argv: Sequence[str] | None) -> Config:
    """The flags; what they do not say is as the search was begun with."""
    config = parse(Config, argv, "python -m nas.search", __doc__ or "")
    if not config.resume:
        return config
    folder = folder_of(config, runs.find_run(config.run, "search*/config.json", "python -m nas.search"))
    name = folder.name.removeprefix("search").removeprefix("-") or None
    begun = runs.begun(folder, Config)
    check_given(config, begun, folder, ("storage", "ray_address"))
    config = fill(config, begun)
    tables = (text.rpartition("=") for text in config.table)
    table = tuple(f"{label}{sign}{runs.follow(path, folder.parent)}" for label, sign, path in tables)
    return amend(config, run=str(folder.parent), name=name, table=table)


def main(argv: Sequence[str] | None = None) -> None:
    search(configure(argv))


if __name__ == "__main__":
    run(main, "go on with --resume")
