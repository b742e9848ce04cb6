"""Jobs as files in a folder, and what was measured on them, as one file that comes back.

The folder holds a model for each job and `manifest.json`, which says what they are, with a checksum of each. The result
repeats the manifest, so that it alone becomes a table. Measuring a folder needs the runtime and numpy, not torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tqdm import tqdm

from latency_lut.backends.base import FileBackend, Job, Runtime, one_torch_thread
from latency_lut.backends.protocol import Measurement, Settings
from latency_lut.backends.registry import BACKENDS
from latency_lut.measurement.sessions import naming
from search_spaces import SearchSpace, UserError
from search_spaces.command.files import atomic_folder, read_json, write_json
from search_spaces.command.typed import Within, read_typed

MANIFEST_SCHEMA, RESULT_SCHEMA = 1, 2
# What is exported, and the command that takes what was measured of it by --from.
TAKERS = {"table": "build", "validation": "validate", "transfer": "transfer"}
MANIFEST = "manifest.json"
EXPORT = "write them again with python -m latency_lut.export"
MEASURE = "measure again with python -m latency_lut.measure"


@dataclass(frozen=True)
class Entry:
    """A job.

    Args:
        file: name in the folder; jobs of one model share it.
        sha256: of the file, or of the names and contents in a folder.
        blocks: keys of its blocks.
        arch: of a whole network.
    """

    file: str
    sha256: str
    blocks: tuple[str, ...]
    arch: dict[str, Any] | None


@dataclass(frozen=True)
class Manifest:
    """
    Args:
        purpose: one of `TAKERS`.
        table: checksum of the table to validate or transfer.
        jobs: by name, in order.
    """

    schema: int
    purpose: str
    table: str | None
    space: str
    image_size: Annotated[int, Within(1, 4096)]
    num_classes: Annotated[int, Within(1, 1e6)]  # 1: boxes of one class
    backend: str
    precision: str
    jobs: dict[str, Entry]

    def __post_init__(self) -> None:
        """ValueError on a purpose that there is not."""
        if self.purpose not in TAKERS:
            raise ValueError(f"purpose is {self.purpose!r}; there are {', '.join(TAKERS)}")

    @property
    def id(self) -> str:
        """Changes with anything that is measured."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """What was measured on a folder.

    Args:
        devices: by job, as `Session.devices`.
        command: by which it was measured.
    """

    schema: int
    manifest: Manifest
    runtime: Runtime
    settings: Settings
    measurement: Measurement
    devices: dict[str, dict[str, float]]
    date: str
    command: str

    def __post_init__(self) -> None:
        """ValueError on a backend that there is not."""
        if (name := self.manifest.backend) not in BACKENDS:
            raise ValueError(f"manifest.backend is {name!r}; there are {', '.join(BACKENDS)}")

    def save(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Result:
        """Raises UserError if it is no result, or one that misses jobs."""
        result = _load(cls, path, MEASURE)
        if lost := [name for name in result.manifest.jobs if name not in result.measurement.timings]:
            raise UserError(f"{path} has no times of {', '.join(lost)}; {MEASURE}")
        return result

    @classmethod
    def load_for(cls, purpose: str, path: Path, table: Path | None = None) -> Result:
        """Raises UserError if it is no result, of another purpose, or of networks exported for another table.

        Args:
            table: file of the table that it is to be of.
        """
        result = cls.load(path)
        manifest = result.manifest
        if manifest.purpose != purpose:
            taker = TAKERS[manifest.purpose]
            raise UserError(f"{path} is a {manifest.purpose}'s; give it to python -m latency_lut.{taker} --from")
        if table is not None and manifest.table != checksum(table):
            flag = {"validation": "--validate", "transfer": "--transfer"}[purpose]
            raise UserError(
                f"{path} is of networks that were exported for another table than {table}; give that one as --table, "
                f"or export again with python -m latency_lut.export {flag} {table}"
            )
        return result


def write_folder(
    folder: Path,
    jobs: Mapping[str, Job],
    backend: FileBackend,
    space: SearchSpace,
    *,
    purpose: str,
    table: str | None = None,
) -> Manifest:
    """Exports the jobs; the folder appears when all are written.

    Raises:
        UserError: the folder holds something else, such as results, or cannot be written.
    """
    folder = folder.absolute()
    if others := _others(folder):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise UserError(f"{folder} holds {', '.join(others[:3])}{more}, which writing would delete; give another --out")
    entries: dict[str, Entry] = {}
    done: dict[int, Entry] = {}
    with atomic_folder(folder) as target:
        for name, job in tqdm(jobs.items(), desc="exporting", disable=None, leave=False):
            if id(job) not in done:
                path = target / f"{len(done):04d}{backend.suffix}"
                with one_torch_thread(), naming(backend, name):
                    backend.export(job, path)
                arch = space.to_json(job.arch) if job.arch else None
                done[id(job)] = Entry(path.name, checksum(path), tuple(block.key for block in job.blocks), arch)
            entries[name] = done[id(job)]
        place = (space.name, space.image_size, space.num_classes)
        manifest = Manifest(MANIFEST_SCHEMA, purpose, table, *place, backend.name, backend.precision, entries)
        write_json(target / MANIFEST, dataclasses.asdict(manifest))
    return manifest


def _others(folder: Path) -> list[str]:
    """What is there that an earlier export did not write."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        return ["no folder"]
    there = sorted(path.name for path in folder.iterdir())
    try:
        manifest = _load(Manifest, folder / MANIFEST, EXPORT)
    except UserError:
        return there
    return [name for name in there if name not in {MANIFEST, *(entry.file for entry in manifest.jobs.values())}]


def read_folder(folder: Path) -> Manifest:
    """The manifest of a folder whose files are all there and unaltered.

    Raises:
        UserError: with all files that are not.
    """
    manifest = _load(Manifest, folder / MANIFEST, EXPORT)
    problems = []
    for entry in dict.fromkeys((e.file, e.sha256) for e in manifest.jobs.values()):
        file, sha256 = entry
        if Path(file).name != file or file in ("", "..") or (folder / file).is_symlink():
            problems.append(f"{file!r} lies outside")
        elif not (folder / file).exists():
            problems.append(f"{file} is missing")
        elif checksum(folder / file) != sha256:
            problems.append(f"{file} was altered")
    if problems:
        raise UserError(f"{folder}: {', '.join(problems)}; copy the folder again, or {EXPORT}")
    return manifest


def check_jobs(path: Path, manifest: Manifest, jobs: Mapping[str, Job]) -> None:
    """UserError unless what was measured are these jobs.

    Args:
        path: of the result, for the message.
    """
    here = {name: tuple(block.key for block in job.blocks) for name, job in jobs.items()}
    there = {name: entry.blocks for name, entry in manifest.jobs.items()}
    if differing := [name for name in {**here, **there} if here.get(name) != there.get(name)]:
        raise UserError(
            f"{path} was measured on other graphs than this version has for {manifest.space}: "
            f"{', '.join(differing)}; {EXPORT}"
        )


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        if file != path:
            digest.update(f"{file.relative_to(path).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


T = TypeVar("T", Manifest, Result)


def _load(cls: type[T], path: Path, remedy: str) -> T:
    try:
        data = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from None
    if isinstance(data, dict) and "calibration" in data:
        raise UserError(f"{path} is a latency table already, not what latency_lut.measure gives; give it as --table")
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != (known := MANIFEST_SCHEMA if cls is Manifest else RESULT_SCHEMA):
        raise UserError(f"{path} has schema {schema!r}, this version reads {known}; {remedy}")
    try:
        return read_typed(cls, data, cls.__name__.lower())
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
