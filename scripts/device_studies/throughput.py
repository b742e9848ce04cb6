"""EfficientViT's supplement, Table 3, on your CPU: images a second of M0 to M5, without and with tuned kernels.

    python -m scripts.device_studies.throughput                                 # all runtimes but TVM
    python -m scripts.device_studies.throughput --python ~/tvm/bin/python \\
        --backends torch torch_compiled onnxruntime openvino tvm tvm_tuned      # TVM, too: an hour of tuning

Batch 1, one thread, random weights. All networks on all runtimes are timed in the same shuffled rounds, by the protocol
of the latency tables, so that ratios hold where the machine is busy. The paper does not name the runtime, batch and
threads of its two columns.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latency_lut.backends.base import Backend
from latency_lut.backends.protocol import Measurement, Settings, SystemClock, measure
from latency_lut.backends.registry import make_backend
from latency_lut.measurement.interpreter import delegate
from latency_lut.measurement.timm_models import timm_job
from scripts.device_studies.studies import STUDIES
from search_spaces.command import Flags, align, flag, parse, run, spell
from search_spaces.command.files import write_json

MODULE = "scripts.device_studies.throughput"
# Images a second of the paper's Xeon, without and with TVM's kernels: supplement, Table 3.
PUBLISHED = {
    "efficientvit_m0": (228.4, 366.8),
    "efficientvit_m1": (126.9, 217.5),
    "efficientvit_m2": (121.2, 182.0),
    "efficientvit_m3": (96.4, 142.2),
    "efficientvit_m4": (88.5, 126.0),
    "efficientvit_m5": (56.8, 78.5),
}


@dataclass(frozen=True)
class ThroughputConfig(Flags):
    models: tuple[str, ...] = flag(tuple(PUBLISHED), "timm's names")
    backends: tuple[str, ...] = flag(
        ("torch", "torch_compiled", "onnxruntime", "openvino"), "runtimes; the first is what ratios are to"
    )
    tuning_s: int = flag(600, "seconds of tuning kernels a network (tvm_tuned)", minimum=0)
    samples: int = flag(20, "undisturbed samples of every network on every runtime", minimum=2, maximum=10_000)
    python: str | None = flag(
        None, "interpreter of another environment to measure in, where the runtimes are installed"
    )


def backends(config: ThroughputConfig) -> dict[str, Backend]:
    """By name; UserError if one does not run here."""
    made = {n: make_backend(n, tuning_s=config.tuning_s if n == "tvm_tuned" else None) for n in config.backends}
    for backend in made.values():
        backend.describe()
    return made


def throughput(models: Sequence[str], runtimes: Mapping[str, Backend], settings: Settings) -> Measurement:
    """Times of each network on each runtime, by "network runtime"."""
    jobs = {model: timm_job(model) for model in models}
    runs = {f"{m} {n}": backend.prepare(job).run for m, job in jobs.items() for n, backend in runtimes.items()}
    return measure(runs, settings, SystemClock())


def rows(models: Sequence[str], names: Sequence[str], measured: Measurement) -> list[dict[str, Any]]:
    """Images a second of the fastest runs, and by how much each runtime exceeds the first."""
    found = []
    for model in models:
        per_second = {name: 1e3 / measured.timings[f"{model} {name}"].min_ms for name in names}
        ratios = {name: value / per_second[names[0]] for name, value in per_second.items()}
        found.append({"name": model, "images_per_s": per_second, "ratio": ratios, "paper": PUBLISHED.get(model)})
    return found


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Images a second and, in brackets, the ratio to the first runtime; the paper's two columns at the end."""
    names = list(found[0]["images_per_s"])
    lines = [("images/s", *names, "paper", "paper, TVM")]
    for row in found:
        cells = (f"{row['images_per_s'][name]:.1f} ({row['ratio'][name]:.2f})" for name in names)
        plain, tuned = row["paper"] or (None, None)
        paper = (f"{plain:.1f}", f"{tuned:.1f} ({tuned / plain:.2f})") if plain and tuned else ("–", "–")
        lines.append((row["name"], *cells, *paper))
    return align(lines, "<" + ">" * (len(names) + 2))


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(ThroughputConfig, argv, f"python -m {MODULE}", "EfficientViT's throughput by runtime (Table 3).")
    if delegate(config.python, MODULE, argv):
        return
    runtimes = backends(config)
    measured = throughput(config.models, runtimes, Settings(config.samples, min_sample_ms=20.0))
    found = rows(config.models, list(runtimes), measured)
    described = [str(backend.describe()) for backend in runtimes.values()]
    out = STUDIES / "throughput.json"
    write_json(out, {"command": spell(MODULE, config), "runtimes": described, "busy": measured.busy, "networks": found})
    print(*described, report(found), sep="\n")
    if measured.busy:
        print("WARNING: the machine was busy; ratios hold better than times")
    print(out)


if __name__ == "__main__":
    run(main)
