"""A workplace in which every command has been used, small enough to be made in seconds, and how commands read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from latency_lut import build, measure, validate
from latency_lut import export as export_blocks
from nas import evaluate, export, prune, retrain, search
from nas.pruning import job
from search_spaces import SPACES
from tests.latency_lut.fake import FakeMachine, Killed, MortalMachine
from tests.nas.synthetic_baselines import baselines
from tests.nas.synthetic_run import add_export
from tests.nas.tiny import export_nothing, tiny_space

QUICK = ("--batch-size", "8", "--amp", "off")
HERE = ("--space", "tiny", "--image-size", "16", "--num-classes", "3", "--backend", "onnxruntime")
TRAIN = ("nas.train_supernet", "--space", "tiny", "--data", "images", "--epochs", "1", *QUICK, "--run", "new")
SEARCH = ("nas.search", "--run", "r", "--strategy", "slimming", "--budget", "4", "--name", "new")
RETRAIN = ("nas.retrain", "--run", "r", "--suffix", "new", "--epochs", "1", *QUICK)
PRUNE = ("nas.prune", "--finetune-epochs", "1", *QUICK, "--samples", "2", "--backend", "torch", "--formats", "onnx")
PRUNE_NEW = (*PRUNE, "--round-to", "1", "--target", "params=0.8", "--name", "new")

RUN = "space image_size num_classes classes mean std.0 data.data? data.search_fraction? splits.train splits.digest"
TABLE = (
    "schema space image_size num_classes form calibration.scale calibration.networks rows graphs clamped "
    "provenance.runtime.threads provenance.busy provenance.unclean_share? provenance.anchor_ms"
)
WINNER = "winners.0.name:path winners.0.arch winners.0.accuracy winners.0.mes winners.0.macs earlier_winners"
RECIPE = "image_size classes mean std.0 kept versions options"
ARCH = "width width.0 present.0 expansion attention"
TRIAL = "5.user_attrs.arch 5.user_attrs.accuracy 5.user_attrs.seconds 5.user_attrs.step 5.distributions 5.user_attrs"


@dataclass(frozen=True)
class Reads:
    """A command, and the fields that it needs of each file that it reads (`tests.nas.damage`)."""

    argv: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)


READERS = {
    "report": Reads(
        ("nas.report", "--run", "r"),
        {
            "runs/r/run.json": RUN,
            "runs/r/supernet/result.json": "command loss norm epochs minutes search_accuracy.largest test_accuracy",
            "runs/r/supernet/metrics.jsonl": "0.step 0.epoch",
            "runs/r/search/result.json": f"command strategy num_images minutes objective.terms.0.metric {WINNER}",
            "runs/r/search-random/result.json": "evaluations.0.num_params evaluations.0.mes evaluations front front.0",
            "runs/r/search-timed/result.json": "tables tables.latency_ms.path objective trajectory.0.step trajectory",
            "runs/r/retrain/winner-1/result.json": "command arch init start_test_accuracy test_accuracy",
            "runs/r/retrain/winner-1/metrics.jsonl": "0.step 0.epoch",
            "runs/r/export/winner-1/result.json": "command files files.onnx.file:path files.onnx.bytes "
            "files.onnx.precision files.onnx.latency_ms.min",
            "runs/r/prune/p/result.json": "command accuracy.dense.test num_images.test may_have_seen_test "
            "networks.pruned.macs",
            "runs/r/baselines/result.json": "command num_images networks networks.0.name:path networks.0.sessions_ms "
            "networks.1.accuracy.value networks.2.winner differences differences.0.low missing",
            "runs/r/evaluate/e.json": "command split num_images networks networks.0.name",
            "runs/r/evaluate/winner-1-retrained-test.json": "space classes class_sizes calibration_images "
            "networks.0.top1.low networks.0.per_class networks.0.confusion networks.0.right networks.0.arch",
            "t.validation.json": "busy runtime.device table.mape networks.0.predicted_ms networks.0.measured_ms",
        },
    ),
    "compare": Reads(
        ("nas.compare", "runs/r/search", "runs/r/search-random", "--points", "points.json"),
        {
            "runs/r/search-random/result.json": "evaluations.0.accuracy evaluations.0.mes strategy num_images",
            "runs/r/search-random/config.json": "supernet_sha256?",
            "points.json": "0.label 0.accuracy 0.mes 0.latency_ms?",
        },
    ),
    "search": Reads(
        (*SEARCH, "--table", "t.json"),
        {"runs/r/run.json": RUN, "runs/r/supernet/supernet.safetensors": "norm", "t.json": TABLE},
    ),
    "search on": Reads(
        ("nas.search", "--run", "r", "--resume", "--name", "cut"),
        {
            "runs/r/search-cut/config.json": "command strategy seed exact only winners batch_size metrics alpha_size",
            "runs/r/search-cut/study.log": f"0.op_code 1.user_attr {TRIAL}",
        },
    ),
    "more winners": Reads(
        ("nas.search", "--run", "r", "--resume", "--name", "random", "--winners", "2"),
        {"runs/r/search-random/result.json": WINNER},
    ),
    "search from a search": Reads(
        (*SEARCH, "--strategy", "predictor", "--seed-search", "search", "--metrics", "size"),
        {"runs/r/search/result.json": "trajectory.0.arch trajectory trajectory.1.accuracy"},
    ),
    "evaluate": Reads(
        ("nas.evaluate", "--run", "r", "--arch", "arch.json", "--name", "new", "--search", "search"),
        {"arch.json": ARCH, "runs/r/search/result.json": f"objective.limits {WINNER}"},
    ),
    "evaluate a winner": Reads(
        ("nas.evaluate", "--run", "r", "--retrained", "winner-1", "--name", "new", "--table", "t.json"),
        {"runs/r/retrain/winner-1/model.safetensors": "", "t.json": "rows graphs"},
    ),
    "retrain": Reads(
        (*RETRAIN, "--search", "search"), {"runs/r/search/result.json": "winners winners.0.name:path winners.0.arch"}
    ),
    "retrain networks": Reads((*RETRAIN, "--archs", "archs.json"), {"archs.json": "0.name:path 0.arch 1.arch.width"}),
    "retrain on": Reads(
        ("nas.retrain", "--run", "c", "--resume"),
        {
            "runs/c/retrain/winner-1/config.json": "command epochs lr optimizer amp winners.0:path search:path arch",
        },
    ),
    "train on": Reads(
        ("nas.train_supernet", "--run", "u", "--resume"),
        {
            "runs/u/run.json": "data.data? splits.digest",
            "runs/u/supernet/config.json": "command space loss num_random epochs lr hflip data",
            "runs/u/supernet/checkpoint.safetensors": "step amp processes scaler",
            "runs/u/supernet/metrics.jsonl": "0.step 0.epoch",
        },
    ),
    "learn from a winner": Reads(
        (*TRAIN, "--teacher", "runs/r/export/winner-1"),
        {"runs/r/export/winner-1/model.safetensors": "arch classes image_size mean std"},
    ),
    "classes": Reads((*TRAIN, "--classes", "classes.json"), {"classes.json": "blue"}),
    "export": Reads(
        ("nas.export", "--run", "r", "--formats", "timm"),
        {"runs/r/retrain/winner-1/result.json": "arch test_accuracy", "runs/r/retrain/winner-1/model.safetensors": ""},
    ),
    "prune": Reads(
        (*PRUNE_NEW, "--model", "runs/r/retrain/winner-1"),
        {"runs/r/retrain/winner-1/result.json": "arch", "runs/r/retrain/winner-1/model.safetensors": ""},
    ),
    "prune again": Reads(
        (*PRUNE_NEW, "--model", "runs/r/prune/p"),
        {"runs/r/prune/p/pruned.json": RECIPE, "runs/r/prune/p/model.safetensors": ""},
    ),
    "prune on": Reads(
        ("nas.prune", "--run", "r", "--resume", "--name", "cut"),
        {
            "runs/r/prune/cut/config.json": "command target criterion round_to finetune_epochs model",
            "runs/r/prune/cut/rounds/1/pruned.json": RECIPE,
            "runs/r/prune/cut/rounds/1/selection.json": "seconds num_images latency_trials",
        },
    ),
    "more formats": Reads(
        ("nas.prune", "--run", "r", "--resume", "--name", "p", "--formats", "coreml"),
        {"runs/r/prune/p/result.json": "accuracy.finetuned.test export"},
    ),
    "show": Reads(("latency_lut.show", "t.json"), {"t.json": TABLE}),
    "predict": Reads(
        ("latency_lut.predict", "--table", "t.json", "--arch", "arch.json"),
        {"t.validation.json": "busy runtime table.within_10_percent networks.0.arch", "arch.json": ARCH},
    ),
    "diff": Reads(("latency_lut.diff", "t.json", "t2.json"), {"t2.json": TABLE}),
    "validate": Reads(("latency_lut.validate", "--table", "t.json", "--num-archs", "3"), {"t.json": TABLE}),
    "validate on": Reads(
        ("latency_lut.validate", "--table", "t.json", "--num-archs", "4"),
        {"t.validation.json.partial": "0.settings"},
    ),
    "take a validation": Reads(
        ("latency_lut.validate", "--table", "t.json", "--from", "timed.json"),
        {"timed.json": "schema manifest.table manifest.purpose measurement.timings settings.samples"},
    ),
    "build on": Reads(
        ("latency_lut.build", *HERE, "--samples", "3", "--out", "new.json"), {"new.json.partial": "0.settings"}
    ),
    "take a table": Reads(
        ("latency_lut.build", "--from", "measured.json", "--out", "new.json"),
        {
            "measured.json": "schema manifest.jobs manifest.backend manifest.space runtime.threads runtime.device "
            "settings.samples measurement.timings measurement.short devices date command"
        },
    ),
    "measure": Reads(
        ("latency_lut.measure", "blocks", "--samples", "2", "--out", "new.json"),
        {"blocks/manifest.json": "schema purpose jobs space image_size backend precision"},
    ),
    "export again": Reads(
        ("latency_lut.export", "--validate", "t.json", "--num-archs", "3", "--out", "networks"),
        {"networks/manifest.json": "schema jobs"},
    ),
    "space": Reads(
        ("search_spaces.__main__", "tiny", "--arch", "arch.json", "--image-size", "16"), {"arch.json": ARCH}
    ),
    "profile": Reads(
        ("latency_lut.profile", "--space", "tiny", "--arch", "arch.json", "--backend", "torch", "--out", "new.html"),
        {"arch.json": ARCH},
    ),
}


class Device(FakeMachine):
    """ONNX Runtime's place."""

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        super().__init__(threads=threads, precision=precision, name="onnxruntime")


class Mortal(Device, MortalMachine):
    lifetime = 150


def use(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """What commands need to work there."""
    patch.setitem(SPACES, "tiny", tiny_space)
    patch.setattr("latency_lut.backends.onnxruntime.OnnxRuntimeBackend", Device)
    export_nothing(patch)
    patch.setattr(job, "stage_times_ms", lambda *_: {"stem": 1.0})
    patch.chdir(folder)


def make_workplace(folder: Path, searched: Path) -> None:
    """
    Args:
        searched: a folder with `images` and a run `runs/r` of the tiny space that has been searched.
    """
    shutil.copytree(searched, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        _measure()
        search.main(
            ["--table", "t.json", "--strategy", "slimming", "--budget", "8", "--name", "timed", "--winners", "2"]
        )
        search.main(["--metrics", "size", "--strategy", "random", "--budget", "8", "--name", "random"])
        retrain.main(["--search", "search", "--epochs", "1", *QUICK])
        evaluate.main(["--name", "e", "--arch", "largest", "--search", "search"])
        look = "winner-1-retrained-test"  # which nas.report would make, too
        evaluate.main(["--name", look, "--retrained", "winner-1", "--split", "test", "--search", "search"])
        export.main(["--formats", "timm", "--winners", "winner-1"])
        add_export(Path("runs/r"))
        baselines().write(Path("runs/r"))
        prune.main(
            [
                *PRUNE[1:],
                "--round-to",
                "1",
                "--model",
                "runs/r/retrain/winner-1",
                "--name",
                "p",
                "--target",
                "params=0.8",
            ]
        )
        _interrupt()
        _write_networks()


def _measure() -> None:
    quick = ("--samples", "3")
    build.main([*HERE, *quick, "--out", "t.json"])
    validate.main(["--table", "t.json", "--num-archs", "4"])
    export_blocks.main([*HERE, "--out", "blocks"])
    measure.main(["blocks", *quick, "--out", "measured.json"])
    export_blocks.main(["--validate", "t.json", "--num-archs", "4", "--out", "networks"])
    measure.main(["networks", *quick, "--out", "timed.json"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latency_lut.backends.onnxruntime.OnnxRuntimeBackend", Mortal)
        for main, name in ((build.main, "build on"), (validate.main, "validate on")):
            with pytest.raises(Killed):
                main(READERS[name].argv[1:])


def _interrupt() -> None:
    """Adds stages as a kill leaves them."""
    run, unfinished = Path("runs/r"), shutil.ignore_patterns("result.json", "tensorboard")
    for stage, name in (("search", "r/search-cut"), ("prune/p", "r/prune/cut"), ("supernet", "u/supernet")):
        shutil.copytree(run / stage, Path("runs") / name, ignore=unfinished)
    shutil.copy(run / "run.json", "runs/u")
    others = shutil.ignore_patterns("prune", "export", "evaluate", "search-*", "tensorboard")
    shutil.copytree(run, "runs/c", ignore=others)
    Path("runs/c/retrain/winner-1/result.json").unlink()


def _write_networks() -> None:
    space = tiny_space()
    archs = [space.to_json(space.largest), space.to_json(space.smallest)]
    point = {"label": "another", "accuracy": 0.5, "mes": 100.0, "latency_ms": 1.0}
    files: dict[str, object] = {
        "arch.json": archs[0],
        "archs.json": [{"name": f"network-{i}", "arch": arch} for i, arch in enumerate(archs)],
        "points.json": [point],
        "classes.json": {"blue": 0, "green": 1, "red": 2},
    }
    for name, content in files.items():
        Path(name).write_text(json.dumps(content))
    shutil.copy("t.json", "t2.json")


def jobs() -> Sequence[tuple[str, str]]:
    """Every reader and file."""
    return [(name, path) for name, reads in READERS.items() for path in reads.files]
