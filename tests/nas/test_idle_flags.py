"""A flag that would do nothing beside the others is refused, by name; none is read by nobody."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latency_lut.measurement import export as blocks
from latency_lut.measurement.export import ExportConfig
from latency_lut.profiling.profile import ProfileConfig, profile
from nas.comparison.compare import Config as CompareConfig
from nas.comparison.compare import compare
from nas.data import DataConfig, load_data
from nas.exporting.export import Config as FilesConfig
from nas.inspection.evaluate import Config as EvaluateConfig
from nas.inspection.evaluate import evaluate
from nas.proving.families import compare_families
from nas.pruning import configure as pruning
from nas.pruning.config import Config as PruneConfig
from nas.supernets import classification as supernet
from nas.training.recipe import TrainConfig, check_fits, check_used
from search_spaces import UserError, get_space
from search_spaces.command import Flags, settings
from search_spaces.command.files import write_json
from tests.nas.synthetic_run import make_run
from tests.nas.tiny import make_images

ROOT = Path(__file__).parents[2]
OTHERS = "other networks than --sampling largest trains"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("core", "kind", "flags", "message"),
    [
        (compare, CompareConfig, {"samples": 40}, "--samples is for --winners; leave it out"),
        (compare, CompareConfig, {"device": "cpu", "num_workers": 2}, "--device, --num-workers are for --winners"),
        (compare_families, CompareConfig, {"winners": True, "max_params": [1e6]}, "--max-params is for searches"),
        (compare_families, CompareConfig, {"winners": True, "points": "x"}, "--points is for searches"),
        (FilesConfig.check, FilesConfig, {"formats": ["timm"], "opset": 18}, "--opset is for --formats onnx"),
        (evaluate, EvaluateConfig, {"retrained": ["x"], "calibration_images": 8}, "--calibration-images is for"),
        (blocks.export, ExportConfig, {"backend": "onnxruntime", "seed": 1}, "--seed is for --validate"),
        (profile, ProfileConfig, {"model": "timm/vgg11", "num_random": 1}, "--num-random is for networks of a space"),
        (profile, ProfileConfig, {"model": "timm/vgg11", "run": "mine"}, "--model is 'timm/vgg11' and --run 'mine'"),
        (supernet.configure, supernet.Config, {"order": "magnitude"}, "--order is for --init; leave it out"),
        (supernet.configure, supernet.Config, {"sampling": "largest", "loss": "kl"}, f"--loss is for {OTHERS}"),
        (supernet.configure, supernet.Config, {"sampling": "largest", "num_random": 1}, "--num-random is for other"),
        (check_used, TrainConfig, {"clip_grad": 0.0, "clip_mode": "agc"}, "--clip-mode is for --clip-grad above 0"),
        (check_used, TrainConfig, {"weight_decay": 0.0, "weight_decay_end": 0.1}, "--weight-decay-end is for --weight"),
        (check_used, TrainConfig, {"augment": "none", "hflip": True}, "--hflip is for another --augment than none"),
        (load_data, DataConfig, {"train_split": "all"}, "--train-split all has no meaning with --data digits"),
        (load_data, DataConfig, {"allow_duplicates": True}, "--allow-duplicates has no meaning with --data digits"),
    ],
)  # fmt: skip
def test_a_flag_without_effect_is_refused(
    core: Callable[[Any], Any], kind: type[Flags], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        core(settings(kind, **flags))


def test_beside_others_the_same_flags_are_taken() -> None:
    check_used(settings(TrainConfig, clip_mode="agc", weight_decay_end=0.1, augment="none", hflip=False))
    assert supernet.configure(settings(supernet.Config, loss="kl", num_random=1)).loss == "kl"


def test_a_test_fraction_is_for_images_without_a_test_folder() -> None:
    make_images(Path("images/train"))
    make_images(Path("images/test"))
    with pytest.raises(UserError, match=r"^--test-fraction 0.3 has no meaning where test images have a place of their"):
        load_data(DataConfig(data="images", test_fraction=0.3))
    assert len(load_data(DataConfig(data="images", test_fraction=0.3, test_data="none", allow_duplicates=True)).test)


def test_a_network_with_weights_is_not_trained_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_source", lambda *_, **__: SimpleNamespace(weights=Path("x")))
    with pytest.raises(UserError, match=r"^--dense-epochs is for a network without weights; leave it out"):
        pruning.configure(settings(PruneConfig, dense_epochs=3))


def test_blocks_are_dropped_where_there_are_some() -> None:
    chain: Any = SimpleNamespace(name="chain", largest=None, lower=lambda _: [SimpleNamespace(residual=False)])
    with pytest.raises(UserError, match=r"^--drop-path: chain has no blocks that can be dropped"):
        check_fits(TrainConfig(drop_path=0.1), chain)
    check_fits(TrainConfig(drop_path=0.1), get_space("efficientformerv2-nano"))


def test_networks_without_a_classifier_are_not_trained_as_one() -> None:
    with pytest.raises(UserError, match=r"of mobileone-nano\+ssdlite have no classifier; give mobileone-nano$"):
        check_fits(TrainConfig(), get_space("mobileone-nano+ssdlite", 64))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 96}, "--image-size is 96, but runs/r was begun with 32; leave it out, or give no --run"),
        ({"search_fraction": 0.3}, "--search-fraction is 0.3, but runs/r was begun with 0.15"),
        ({"space": "mobileone"}, "--space is mobileone, but runs/r was begun with efficientformerv2-nano"),
    ],
)
def test_a_run_that_was_begun_keeps_its_space_and_its_splits(flags: dict[str, Any], message: str) -> None:
    make_run(Path("runs/r"))
    write_json(Path("runs/r/retrain/whole/config.json"), {})
    with pytest.raises(UserError, match=r"^runs/r is not fine-tuned to its end; go on with: python -m nas.finetune"):
        supernet.configure(settings(supernet.Config, run="r", **flags))
    write_json(Path("runs/r/retrain/whole/result.json"), {})
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        supernet.configure(settings(supernet.Config, run="r", **flags))
    assert supernet.of_run(settings(supernet.Config, run="r", image_size=32)).init == "runs/r/retrain/whole"


# ---- none is read by nobody


def configs() -> Iterator[tuple[str, list[str]]]:
    """The classes of flags of all packages, by name, with the fields that each adds."""
    for folder in ("search_spaces", "latency_lut", "nas"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    calls = (n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.value, ast.Call))
                    if names := [n.target.id for n in calls if isinstance(n.target, ast.Name) and _is_flag(n.value)]:
                        yield f"{file.relative_to(ROOT)}:{node.name}", names


def _is_flag(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "flag"


def test_every_flag_is_read_somewhere() -> None:
    sources = " ".join(
        file.read_text(encoding="utf-8")
        for folder in ("search_spaces", "supernet", "latency_lut", "nas")
        for file in (ROOT / folder).rglob("*.py")
    )
    read = set(re.findall(r"(?<=\.)\w+", sources))
    found = dict(configs())
    assert len(found) > 20 and not [f"{c}.{name}" for c, names in found.items() for name in names if name not in read]
