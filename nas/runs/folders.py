"""Run folders: `runs/<name>/` holds everything of one run, a folder for each stage.

run.json     what all stages share: the space, the data and its splits (nas.runs.info)
supernet/ search/ retrain/<winner>/ export/<winner>/     config.json, weights, metrics.jsonl, result.json
prune/<name>/ dense/<model>/     pruned networks, and timm's that were trained first: nas.pruning.recipe
baselines/   winners beside what would have been picked without a search: nas.runs.baselines
report.html

Of several processes only the primary (`distributed.process`) checks and makes what is new and claims a stage; all read.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from nas.distributed import process
from search_spaces import UserError
from search_spaces.command.files import drop_leftovers, try_lock, write_json
from search_spaces.command.folders import RUNS, run_folder
from search_spaces.command.typed import load_typed, read_typed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from filelock import BaseFileLock

Config = TypeVar("Config", bound="DataclassInstance")
Value = TypeVar("Value")
Json = dict[str, Any]
Facts = TypeVar("Facts")

WEIGHTS = "model.safetensors"  # in the folder of a trained or pruned network
WHOLE = "whole"  # the folder in retrain/, beside those of winners, of a network that nas.finetune has trained


def find_run(run: str | None, needs: str, remedy: str) -> Path:
    """The folder of the run named (a name under runs/ or a path), or the newest that holds the file `needs`.

    Args:
        needs: a path in the run folder, or a pattern of one.
        remedy: the command that makes it.
    """
    if run is None:
        if found := newest(RUNS, f"*/{needs}"):
            return RUNS / found.relative_to(RUNS).parts[0]
        raise UserError(f"no run under {RUNS}/ has {needs}; make it with: {remedy}")
    folder = run_folder(run)
    if not folder.is_dir():
        raise UserError(f"no run {folder}; see `ls {RUNS}`")
    if not any(folder.glob(needs)):
        raise UserError(f"{folder} has no {needs}; make it with: {remedy}")
    return folder


def follow(place: str, run: Path) -> str:
    """A path that a run has recorded, or where it is now if the run has moved and took it along, or its folder did."""
    path = Path(place).expanduser()
    if path.exists():
        return place
    ends = (path.parts[i:] for i in range(1, len(path.parts)))
    found = (folder.joinpath(*end) for end in ends for folder in (run, run.parent))
    return next((str(path) for path in found if path.exists()), place)


def find_trained(run: str | None) -> Path:
    """The folder of the run named, or of the newest, whose supernet is trained.

    Raises:
        UserError: there is none; with the command that goes on with its training, if that was begun, or begins it.
    """
    begun = newest(RUNS, "*/supernet/config.json") if run is None else run_folder(run) / "supernet/config.json"
    flags = [*(["--resume"] if begun and begun.exists() else []), *(["--run", run] if run else [])]
    return find_run(run, "supernet/result.json", shlex.join(["python", "-m", "nas.train_supernet", *flags]))


def newest(folder: Path, pattern: str) -> Path | None:
    """The most recently written path of the pattern."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)


_called: ContextVar[str | None] = ContextVar("called", default=None)


@contextmanager
def called_as(command: str) -> Iterator[None]:
    """What `command_line` says meanwhile: for what Python calls, and no command line."""
    token = _called.set(command)
    try:
        yield
    finally:
        _called.reset(token)


def command_line() -> str:
    """The command of this process, or of what it has called, as it can be typed again."""
    if (called := _called.get()) is not None:
        return called
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = [*process.launcher(), spec.name.removesuffix(".__main__")] if spec else ["python", sys.argv[0]]
    return shlex.join([*program, *sys.argv[1:]])


# ---- stages


def check_new(folder: Path, flag: str) -> None:
    """UserError if the stage has been begun; `flag` is the one that names another, and what else there is to do."""
    if process.is_primary() and (folder / "config.json").exists():
        raise UserError(f"{folder} exists; go on with it by --resume, or make another with {flag}")


def begin(folder: Path, config: Any, **facts: Any) -> None:
    """Writes a stage's `config.json`.

    Args:
        config: the stage's dataclass.
        facts: what else must be the same when the stage is resumed, as JSON.
    """
    if process.is_primary():
        claim(folder)
        write_json(folder / "config.json", {"command": command_line(), **asdict(config), **facts})


def begun(folder: Path, config_type: type[Config]) -> Config:
    """The config that a stage was begun with."""
    path = folder / "config.json"
    raw = _config(folder)
    values = {f.name: raw[f.name] for f in dataclasses.fields(config_type) if f.name in raw}
    try:
        return read_typed(config_type, values, path.name)
    except ValueError as error:
        raise UserError(
            f"{path} is not of this version ({error}); begin anew under another name, or move it away"
        ) from None


def begun_with(facts: type[Facts], folder: Path) -> Facts:
    """The whole of a stage's `config.json`: its flags, and facts beside them. UserError if these are none."""
    return load_typed(facts, folder / "config.json", f"restore it, or move {folder} away")


class _Begun(TypedDict):
    command: str


def _config(folder: Path) -> Json:
    return dict(begun_with(_Begun, folder))


def differences(folder: Path, config: Any, free: tuple[str, ...], **facts: Any) -> Json:
    """Settings, but the `free` ones, that are not those which the stage was begun with."""
    before = {field.name: _as_json(field.default) for field in dataclasses.fields(config)}  # of flags that are newer
    before |= _config(folder)
    after = {name: _as_json(value) for name, value in {**asdict(config), **facts}.items()}
    return {name: value for name, value in after.items() if name not in free and before.get(name) != value}


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def reopen(folder: Path, config: Any, free: tuple[str, ...], amend: tuple[str, ...] = (), **facts: Any) -> Json:
    """Checks that a resumed stage has the settings that it was begun with, and changes nothing.

    Args:
        free: fields that may differ (where and how fast, not what).
        amend: fields that may differ and are then recorded.

    Returns:
        Those that differ and are to be recorded, by `record`, when it is certain that the stage can go on.

    Raises:
        UserError: another setting differs, the message says which; or another process works on the stage.
    """
    if process.is_primary():
        claim(folder)
    before, changed = _config(folder), differences(folder, config, free, **facts)
    if fixed := [f"{n} was {before.get(n)!r}, now {v!r}" for n, v in changed.items() if n not in amend]:
        raise UserError(f"cannot resume {folder} with other settings: {'; '.join(fixed)}")
    return changed


def record(folder: Path, changed: Json) -> None:
    """Takes down in a stage's `config.json` what `reopen` has found to differ."""
    if not changed or not process.is_primary():
        return
    before = _config(folder)
    command = _without(before["command"], [f"--{name.replace('_', '-')}" for name in changed])
    values = ((name, v) for name, value in changed.items() for v in (value if isinstance(value, list) else [value]))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values]
    write_json(folder / "config.json", {**before, **changed, "command": f"{command} {shlex.join(flags)}".strip()})


def _without(command: str, flags: Sequence[str]) -> str:
    """The command without these flags and their values: one that is repeated would add to what it is given again."""
    try:
        words = shlex.split(command)
    except ValueError:  # of Python, no command line
        return command
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word.partition("=")[0] in flags
        if not dropping:
            kept.append(word)
        if word.startswith("--") and "=" in word:  # all that it is given
            dropping = False
    return shlex.join(kept) if kept != words else command


def restore(folder: Path, command: str, settings: Json) -> None:
    """Takes back in a stage's `config.json` what `record` has taken down."""
    if process.is_primary():
        write_json(folder / "config.json", {**_config(folder), **settings, "command": command})


def command_of(folder: Path) -> str:
    """The command that a stage was begun with."""
    return fact(folder, "command", str)


def fact(folder: Path, name: str, kind: type[Value]) -> Value:
    """What `begin` was given by this name. UserError if it is not of this type."""
    value = _config(folder).get(name)
    if not isinstance(value, kind):
        raise UserError(f"{folder / 'config.json'} has no {name} ({value!r:.80}); restore it, or move {folder} away")
    return value


_claimed: dict[Path, BaseFileLock] = {}
_to_release: ContextVar[list[Path] | None] = ContextVar("to_release", default=None)


@contextmanager
def released() -> Iterator[None]:
    """Stages that are claimed within it are free again when it ends: for what Python calls, and stays open."""
    paths: list[Path] = []
    token = _to_release.set(paths)
    try:
        yield
    finally:
        _to_release.reset(token)
        for path in paths:
            _claimed.pop(path).release()


def claim(folder: Path) -> None:
    """Until this process ends, however it ends, or `released` does, no other one claims the folder.

    Raises:
        UserError: another process has claimed it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / ".lock"
    if path in _claimed:
        return
    lock = try_lock(path)
    if lock is None:
        raise UserError(f"another process is at work in {folder}; wait for it, or end it")
    _claimed[path] = lock
    if (paths := _to_release.get()) is not None:
        paths.append(path)
    drop_leftovers(folder)
