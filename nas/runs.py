"""Run folders: `runs/<name>/` holds everything of one run, a folder for each stage.

    run.json     what all stages share: the space, the data and its splits
    supernet/ search/ retrain/<winner>/ export/<winner>/     config.json, weights, metrics.jsonl, result.json
    report.html
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.data import DataConfig, Splits
from search_spaces import SearchSpace, UserError, get_space
from search_spaces.files import read_json, write_json

RUNS = Path("runs")
TABLES = RUNS / "tables"


@dataclass(frozen=True)
class RunInfo:
    """`run.json`: written when a run begins, read by every later stage."""

    space: str
    image_size: int
    num_classes: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: DataConfig
    splits: Splits

    def search_space(self) -> SearchSpace:
        return get_space(self.space, self.image_size, self.num_classes)


def save_run_info(folder: Path, info: RunInfo) -> None:
    write_json(folder / "run.json", asdict(info))


def load_run_info(folder: Path) -> RunInfo:
    path = folder / "run.json"
    raw = read_json(path)
    try:
        return RunInfo(
            **{
                **raw,
                "classes": tuple(raw["classes"]),
                "mean": tuple(raw["mean"]),
                "std": tuple(raw["std"]),
                "data": DataConfig(**raw["data"]),
                "splits": Splits(**raw["splits"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a run of this version ({error}); train again with nas.train_supernet") from None


def find_run(run: str | None, needs: str, remedy: str) -> Path:
    """The folder of the run named (a name under runs/ or a path), or the newest that holds the file `needs`.

    Args:
        needs: a path in the run folder, or a pattern of one.
        remedy: the command that makes it.
    """
    if run is not None:
        for folder in (Path(run), RUNS / run):
            if folder.is_dir():
                if any(folder.glob(needs)):
                    return folder
                raise UserError(f"{folder} has no {needs}; make it with: {remedy}")
        raise UserError(f"no run {run!r} here or under {RUNS}/; see `ls {RUNS}`")
    if found := newest(RUNS, f"*/{needs}"):
        return RUNS / found.relative_to(RUNS).parts[0]
    raise UserError(f"no run under {RUNS}/ has {needs}; make it with: {remedy}")


def newest(folder: Path, pattern: str) -> Path | None:
    """The most recently written path of the pattern."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)


def command_line() -> str:
    """The command of this process as it can be typed again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name.removesuffix('.__main__')}" if spec else shlex.quote(sys.argv[0])
    return f"python {program} {shlex.join(sys.argv[1:])}".strip()


def begin(folder: Path, config: Any, resume: bool, free: tuple[str, ...]) -> None:
    """Writes the stage's `config.json`, or checks that a resumed stage has the settings it was begun with.

    Args:
        config: the stage's dataclass.
        free: fields that may differ on resume (where and how fast, not what).

    Raises:
        UserError: the folder is another run's, or a setting differs; the message says which.
    """
    path = folder / "config.json"
    if path.exists() and not resume:
        raise UserError(f"{folder} exists; go on with it by --resume, or choose another name")
    if resume and not path.exists():
        raise UserError(f"{folder} has no config.json to resume from; run without --resume")
    if not resume:
        write_json(path, {"command": command_line(), **asdict(config)})
        return
    before = read_json(path)
    after = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    names = [f.name for f in dataclasses.fields(config) if f.name not in free]
    changed = [f"{n} was {before.get(n)!r}, now {after[n]!r}" for n in names if before.get(n) != after[n]]
    if changed:
        raise UserError(f"cannot resume {folder} with other settings: {'; '.join(changed)}")


def resumable(folder: Path, config_type: Any, given: Any, free: tuple[str, ...]) -> Any:
    """The config a resumed stage was begun with, updated by the flags in `given` that differ from their defaults.

    So `--resume` alone goes on with everything as it was, and a setting changed by mistake is seen by `begin`.
    """
    before = read_json(folder / "config.json")
    fields = dataclasses.fields(config_type)
    kept = {f.name: before[f.name] for f in fields if f.name in before}
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
    said = {f.name: getattr(given, f.name) for f in fields if getattr(given, f.name) != f.default}
    said |= {name: getattr(given, name) for name in free}
    return config_type(**{**kept, **said})
