"""What all stages of a run share, `run.json`: its space, where its images lie, and their splits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_type_hints

from nas.data import Data, DataConfig, Splits, load_data
from nas.data.classes import check_class_names
from nas.data.embedded import EMBEDDED
from nas.data.named import is_named
from nas.data.places import NO_TEST
from nas.data.splits import SplitConfig
from nas.distributed import process
from nas.runs.folders import WHOLE, begin, check_new, claim
from nas.scenes import (
    BoxesConfig,
    BoxScenes,
    InstanceScenes,
    MaskScenes,
    MasksConfig,
    SceneData,
    load_boxes,
    load_instances,
    load_masks,
)
from nas.scenes.embedded import EMBEDDED as SCENES
from search_spaces import SearchSpace, UserError, get_space
from search_spaces.command.files import drop_leftovers, read_json, write_json
from search_spaces.command.typed import Within, read_typed
from search_spaces.dense.space import head_of

Mean = Annotated[float, Within(0, 1)]  # of pixels from 0 to 1
Std = Annotated[float, Within(1e-4, 1)]
AnyData = Data | SceneData[Any]


@dataclass(frozen=True)
class RunInfo:
    """`run.json`: written when a run begins, read by every later stage.

    Attributes:
        may_move: fields of `data` that say where the images lie, and what is on them, not which they are.
        subject: what is on them.
    """

    space: str
    image_size: int
    num_classes: int
    classes: tuple[str, ...]
    mean: tuple[Mean, ...]
    std: tuple[Std, ...]
    data: SplitConfig
    splits: Splits

    may_move: ClassVar[tuple[str, ...]]
    subject: ClassVar[str]

    @classmethod
    def of(cls, space: SearchSpace, data: AnyData, config: SplitConfig) -> Self:
        """That of a run that begins with this space on these images, normalized; `config` says where they lie."""
        size, classes, to = space.image_size, space.num_classes, data.train.normalization
        return cls(space.name, size, classes, data.classes, to.mean, to.std, config, data.splits)

    def is_like(self, other: RunInfo) -> bool:
        """Whether both are of the same networks on the same splits, wherever the images lie."""
        ours, theirs = ((i.space, i.image_size, i.classes, i.splits.digest) for i in (self, other))
        return ours == theirs

    def search_space(self) -> SearchSpace:
        return get_space(self.space, self.image_size, self.num_classes)

    def load(self) -> AnyData:
        """The images, as they are there now, with the classes of the run."""
        raise NotImplementedError

    def at(self, place: SplitConfig) -> Self:
        """The same of images that lie where this config says."""
        moved = {name: getattr(place, name) for name in self.may_move}
        return replace(self, data=replace(self.data, **moved))


@dataclass(frozen=True)
class ClassesRun(RunInfo):
    """Of images with a class each."""

    data: DataConfig
    may_move = ("data", "data_dir", "test_data", "classes")
    subject = "classes"

    def load(self) -> Data:
        return load_data(self.data, self.classes if self.data.classes else None)


@dataclass(frozen=True)
class BoxesRun(RunInfo):
    """Of images with boxes."""

    data: BoxesConfig
    may_move = ("data", "annotations", "test_data", "test_annotations")
    subject = "boxes"

    def load(self) -> SceneData[BoxScenes]:
        return load_boxes(self.data)


@dataclass(frozen=True)
class InstancesRun(BoxesRun):
    """Of images with boxes, and the mask of what is in each."""

    subject = "masks of objects"

    def load(self) -> SceneData[InstanceScenes]:  # type: ignore[override]
        return load_instances(self.data)


@dataclass(frozen=True)
class MasksRun(RunInfo):
    """Of images with masks."""

    data: MasksConfig
    may_move = ("data", "masks", "annotations", "test_data", "test_masks", "test_annotations", "classes")
    subject = "masks"

    def load(self) -> SceneData[MaskScenes]:
        return load_masks(self.data)


_OF_TASKS: dict[str, type[RunInfo]] = {"detect": BoxesRun, "segment": MasksRun}  # of spaces with a head
REMEDY = "restore it, or train again with nas.train_supernet"


def save_run_info(folder: Path, info: RunInfo) -> None:
    if process.is_primary():
        write_json(folder / "run.json", asdict(info))


def check_run(folder: Path, info: RunInfo) -> None:
    """UserError if the folder is a run already, of something else."""
    if (folder / "run.json").exists() and not (found := load_run_info(folder)).is_like(info):
        raise UserError(
            f"{folder} is a run of {found.space} at {found.image_size} px with {found.num_classes} classes, or of "
            "other images; give another --run"
        )


def begin_run(folder: Path, info: RunInfo, stage: Path, config: Any, **facts: Any) -> None:
    """Writes `run.json`, and begins the stage that the run begins with, as `begin` does.

    Raises:
        UserError: another process is at work in the stage, or has begun it or another run of this name meanwhile.
    """
    if process.is_primary():
        claim(stage)
        check_new(stage, "--run")
        check_run(folder, info)
        drop_leftovers(folder, "run.json")
        save_run_info(folder, info)
    begin(stage, config, **facts)


def load_run_info(folder: Path) -> RunInfo:
    path = folder / "run.json"
    raw = read_json(path)
    name = raw.get("space") if isinstance(raw, dict) else None
    kind = _OF_TASKS[head.task] if (head := head_of(str(name))) else ClassesRun
    if isinstance(raw, dict) and isinstance(raw.get("data"), dict):
        config = get_type_hints(kind)["data"]
        raw["data"] = {**asdict(config()), **raw["data"]}  # flags that are newer than the run
    try:
        info = read_typed(kind, raw, path.name)
    except ValueError as error:
        raise UserError(f"{path} is not a run of this version ({error}); {REMEDY}") from None
    if info.num_classes != len(info.classes) or len(info.mean) != 3 or len(info.std) != 3:
        raise UserError(f"{path} has not as many names as classes, or no mean and std of R, G, B; {REMEDY}")
    check_class_names(info.classes, str(path))
    return info


def load_classes_info(folder: Path) -> ClassesRun:
    """UserError if it is the run of another task."""
    info = load_run_info(folder)
    if not isinstance(info, ClassesRun):
        raise UserError(
            f"{folder} is of images with {info.subject}: its networks do not classify; go on with nas.search, "
            "nas.report, and nas.detect or nas.segment with --backbone RUN:winner-1, or name another --run"
        )
    return info


def load_run_data(folder: Path, moved: DataConfig | None = None) -> Data:
    """As `load_run_images`, of a run of images with classes; UserError if it is of others."""
    load_classes_info(folder)
    data = load_run_images(folder, moved)
    assert isinstance(data, Data)
    return data


def load_run_images(folder: Path, moved: SplitConfig | None = None) -> AnyData:
    """The images of a run, in its splits, normalized as its networks take them.

    Args:
        moved: where the images lie now, if not where the run says; `record_place` takes it down.

    Raises:
        UserError: they are others, or are not where they were.
    """
    before = load_run_info(folder)
    info = before.at(moved) if moved else before
    _check_there(folder, info)
    data = info.load()
    if data.splits.digest != info.splits.digest:
        if info.data != before.data:
            raise UserError(f"the images of {info.data.data} are not those that {folder} was begun with; give these")
        raise UserError(f"{info.data.data} has changed since {folder} was begun; restore it, or train a new run")
    return data.normalized(info.mean, info.std)


def has_moved(folder: Path, config: SplitConfig) -> bool:
    """Whether the config says another place of the images than the run."""
    info = load_run_info(folder)
    return info.at(config) != info


def record_place(folder: Path, config: SplitConfig) -> None:
    """Takes down where the images of the run lie now, once they have been found to be the same."""
    if has_moved(folder, config):
        save_run_info(folder, load_run_info(folder).at(config))


def _check_there(folder: Path, info: RunInfo) -> None:
    for name in {*info.may_move} - {"data_dir", "classes"}:
        place = getattr(info.data, name)
        if place is None or place in (*EMBEDDED, SCENES, NO_TEST) or is_named(place):
            continue
        if not Path(place).expanduser().exists():
            raise UserError(
                f"the images of {folder} are no longer at {place}; say where they are now: "
                f"python -m {_command_of(folder)} --resume --run {folder} --{name.replace('_', '-')} PATH"
            )


def _command_of(folder: Path) -> str:
    """The command that follows the run's images: that which has begun it."""
    whole = (folder / "retrain" / WHOLE / "config.json").exists()
    return "nas.finetune" if whole and not (folder / "supernet" / "config.json").exists() else "nas.train_supernet"
