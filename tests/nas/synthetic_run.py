"""A run folder as the commands leave it, made in a second: real archs and real models, invented figures."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latency_lut.backends.base import Runtime
from latency_lut.backends.protocol import Settings
from latency_lut.tables.table import SCHEMA, Calibration, CalibrationNetwork, Graph, LatencyTable, Provenance, Row
from nas.exporting.parity import example_images, normalized
from nas.objective.mes import PUBLISHED, Objective
from nas.runs.checkpoint import save_tensors
from search_spaces import Arch, SearchSpace, get_space, macs, num_params, peak_activations
from search_spaces.command.files import write_json

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def run_info(space: SearchSpace, classes: list[str]) -> dict[str, Any]:
    return {
        "space": space.name,
        "image_size": space.image_size,
        "num_classes": len(classes),
        "classes": classes,
        "mean": MEAN,
        "std": STD,
        "data": {"data": "digits"},
        "splits": {"train": 1222, "search": 216, "test": 359, "skipped": [], "digest": "0"},
    }


def trained_like(space: SearchSpace, arch: Arch, seed: int = 0) -> nn.Module:
    """The arch's model with every weight and statistic away from its initial value, so that a dropped one shows."""
    torch.manual_seed(seed)
    model = space.build(arch)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average over the batches below
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, *((-0.3, 0.3) if name.endswith("bias") else (0.5, 1.0)))
        if "attention_biases" in name:
            nn.init.normal_(parameter)
    with torch.no_grad():
        for i in range(3):
            model.train()(normalized(example_images(16, space.image_size, i), MEAN, STD))
    return model.eval()


def make_run(
    folder: Path, image_size: int = 32, classes: list[str] | None = None, space: str = "efficientformerv2-nano"
) -> SearchSpace:
    """`run.json` alone; add stages with the functions below."""
    classes = classes or [str(i) for i in range(10)]
    made = get_space(space, image_size, len(classes))
    write_json(folder / "run.json", run_info(made, classes))
    return made


def add_supernet(folder: Path, epochs: int = 30) -> None:
    largest = [0.985 - 0.9 * math.exp(-e / 3) for e in range(epochs)]
    lines: list[dict[str, Any]] = []
    for e in range(epochs):
        base = {"step": 20 * e, "epoch": e, "loss": 2.4 * math.exp(-e / 6) + 0.1, "lr": 0.01, "images_per_s": 410.0}
        accuracies = {
            f"{n}_accuracy": k * largest[e] for n, k in (("largest", 1), ("middle", 0.99), ("smallest", 0.97))
        }
        lines += [{**base, **accuracies, "elapsed_s": 5.0 * e}, {**base, "step": 20 * e + 10, "elapsed_s": 5.0 * e + 2}]
    write_lines(folder / "supernet/metrics.jsonl", lines)
    write_json(
        folder / "supernet/result.json",
        {
            "command": "python -m nas.train_supernet",
            "loss": "kl",
            "sampling": "sandwich",
            "norm": "width",
            "epochs": epochs,
            "planned_epochs": epochs,
            "stopped_epoch": None,
            "kept_epoch": epochs,
            "steps": 20 * epochs,
            "minutes": 2.4,
            "images_per_s": 410.0,
            "num_images": {"train": 1222, "search": 216, "test": 359},
            "search_accuracy": {"largest": 0.986, "middle": 0.979, "smallest": 0.958},
            "test_accuracy": {"largest": 0.983, "middle": 0.974, "smallest": 0.953},
        },
    )


def add_search(folder: Path, space: SearchSpace, table: str | None = None, with_latency: bool = True) -> None:
    """A walk from the largest to the smallest arch; accuracy falls slowly, then fast."""
    rng = random.Random(0)
    arch, action = space.largest, None
    points: list[dict[str, Any]] = []
    while True:
        latency = 0.12 + macs(space, arch) / 4.2e7
        score = 100 * (num_params(space, arch) / 3e6) ** -0.5 / (latency if with_latency else 1)
        points.append(
            {
                "step": len(points),
                "action": action,
                "arch": space.to_json(arch),
                "accuracy": round(216 * (0.99 - 0.09 * math.exp(6 * (0.1 - latency)) + rng.gauss(0, 0.002))) / 216,
                **({"latency_ms": latency} if with_latency else {}),
                "num_params": num_params(space, arch),
                "macs": macs(space, arch),
                "memory_mb": 4 * peak_activations(space, arch) / 1e6,
                "mes": score,
            }
        )
        if not (frontier := space.slim(arch)):
            break
        step = rng.choice(frontier)
        arch, action = step.arch, {"choice": step.choice, "before": step.before, "after": step.after}
    best = 0.0
    for point in reversed(points):
        point["pareto"] = point["accuracy"] > best
        best = max(best, point["accuracy"])
    front = [p for p in points if p["pareto"]]
    picked = [front[0], front[len(front) // 2], front[-1]]
    write_json(
        folder / "search/result.json",
        {
            "command": "python -m nas.search --alpha-latency 1.0 --alpha-size 0.5",
            "space": space.name,
            "strategy": "slimming",
            "objective": (PUBLISHED if with_latency else Objective.of(num_params=0.5)).to_json(),
            "tables": {"latency_ms": {"path": table, "sha256": None}} if table else {},
            "num_evaluations": 512,
            "num_images": 216,
            "minutes": 3.1,
            "trajectory": points,
            "winners": [{"name": f"winner-{i + 1}", **p} for i, p in enumerate(picked)],
            "earlier_winners": [],
        },
    )


def add_table(path: Path, space: SearchSpace, validated: bool = True) -> None:
    """A latency table with invented times of the space's blocks, and a validation beside it."""
    rng = random.Random(2)
    rows = {
        key: Row(0.01 + block.macs / 5e7, 0.011 + block.macs / 5e7, {key: 1.0})
        for key, block in space.all_blocks().items()
    }
    archs = [space.smallest, space.largest, *(space.sample(rng) for _ in range(26))]
    sums = [sum(rows[block.key].min_ms for block in space.lower(arch)) for arch in archs]
    times = [(0.95 * total + 0.02) * rng.gauss(1, 0.02) for total in sums]
    networks = tuple(
        CalibrationNetwork(space.to_json(arch), total, 0.95 * total + 0.02, time, 1.02 * time, (time,))
        for arch, total, time in list(zip(archs, sums, times, strict=True))[:10]
    )
    source = Provenance(
        backend="onnxruntime",
        runtime=Runtime("Some CPU <8 cores>", "Linux", "ONNX Runtime", "1.31", "cpu", "float32", 1),
        settings=Settings(),
        batch=1,
        protocol="rounds",
        unclean_share=0.012,
        busy=False,
        anchor_ms=0.4,
        anchor_drift=0.003,
        date="2030-01-02T03:04:05+00:00",
        command="python -m latency_lut.build --samples 40",
    )
    LatencyTable(
        SCHEMA,
        space.name,
        space.image_size,
        space.num_classes,
        "deployed",
        source,
        Calibration(0.95, 0.02, networks),
        (),
        rows,
        {key: Graph((key,), (row.min_ms, row.median_ms, row.median_ms), {}) for key, row in rows.items()},
    ).save(path)
    if validated:
        accuracy = {"mape": 0.018, "bias": -0.004, "within_5_percent": 0.95, "within_10_percent": 1.0, "spearman": 0.99}
        held_out = list(zip(archs, sums, times, strict=True))[10:]
        names = ("table", "at_this_speed", "repeat_floor", "uncalibrated_sum", "macs", "num_params")
        pairs = [
            {"arch": space.to_json(arch), "predicted_ms": 0.95 * total + 0.02, "measured_ms": time}
            for arch, total, time in held_out
        ]
        figures = {name: {**accuracy, "kendall": None} for name in names}
        runtime = asdict(source.runtime)
        write_json(
            path.with_suffix(".validation.json"), {"busy": False, "runtime": runtime, "networks": pairs, **figures}
        )


def add_retrain(folder: Path, space: SearchSpace, names: tuple[str, ...] = ()) -> None:
    """Retrains the winners named, or all, of the search; without a search, random archs under those names."""
    if (folder / "search/result.json").exists():
        winners = json.loads((folder / "search/result.json").read_text())["winners"]
    else:
        rng = random.Random(1)
        winners = [{"name": name, "arch": space.to_json(space.sample(rng)), "accuracy": 0.9} for name in names]
    for i, winner in enumerate(w for w in winners if not names or w["name"] in names):
        target, arch = folder / "retrain" / winner["name"], space.from_json(winner["arch"])
        save_tensors(target / "model.safetensors", trained_like(space, arch, i).state_dict(), {"space": space.name})
        epochs = range(20)
        write_lines(
            target / "metrics.jsonl",
            [
                {"step": 20 * e, "epoch": e, "loss": 1.2 * math.exp(-e / 4) + 0.08, "accuracy": 0.99 - 0.3 / (e + 1)}
                for e in epochs
            ],
        )
        write_json(
            target / "result.json",
            {
                "command": f"python -m nas.retrain --winner {winner['name']}",
                "name": winner["name"],
                "arch": winner["arch"],
                "init": "inherit",
                "epochs": len(epochs),
                "minutes": 0.8,
                "start_test_accuracy": winner["accuracy"] - 0.008,
                "test_accuracy": winner["accuracy"] + 0.004,
                "num_params": num_params(space, arch),
                "macs": macs(space, arch),
            },
        )


def add_export(folder: Path) -> None:
    for result in sorted(folder.glob("retrain/*/result.json")):
        name = result.parent.name
        latency = 0.12 + json.loads(result.read_text())["macs"] / 4.1e7
        write_json(
            folder / "export" / name / "result.json",
            {
                "command": "python -m nas.export",
                "name": name,
                "files": {
                    "onnx": {
                        "file": "model.onnx",
                        "format": "onnx",
                        "precision": "float32",
                        "bytes": 2_134_000,
                        "batch_sizes": [1, 3],
                        "max_abs_diff": 3.1e-6,
                        "latency_ms": {"min": latency, "median": 1.03 * latency, "threads": 1, "busy": False},
                        "units": {"cpu": 0.97, "elsewhere": 0.03},
                        "peak_memory_bytes": 9_100_000,
                        "test_accuracy": 0.75,
                        "test_images": 300,
                        "drop": 0.25,
                    },
                    "coreml": {
                        "file": "model.mlpackage",
                        "format": "coreml",
                        "precision": "float16",
                        "bytes": 1_070_000,
                        "max_abs_diff": 8e-4,
                        "executed_by": "PyTorch",
                    },
                    "timm": {
                        "file": "model.safetensors",
                        "format": "timm",
                        "precision": "float32",
                        "bytes": 2_140_000,
                        "max_abs_diff": 0.0,
                    },
                },
            },
        )


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
