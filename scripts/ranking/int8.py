"""How well a search foresees the accuracy of int8 files: simulated (`nas.evaluation.quantized`) against the file's own.

    python -m scripts.ranking.int8 --run my-run
    python -m scripts.ranking.int8 --run my-run --count 20 --num-images 1000

Networks of the run's supernet, spread over the range of MACs, with their inherited weights: each is evaluated in
float32, in simulated int8, and as an int8 ONNX file in ONNX Runtime, on the same test images. Printed are Kendall's τ
and the mean absolute difference in points of either from the file, and how long int8 takes beside float32, batch by
batch in turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latency_lut.backends.onnxruntime import session_options
from nas import runs
from nas.data import Images
from nas.evaluation.accuracy import right_answers
from nas.evaluation.quantized import quantized
from nas.exporting.onnx import write_int8, write_onnx
from nas.networks.inherit import calibration_batches, calibration_count, inherited, load_supernet
from nas.objective.costs import Costs
from nas.objective.mes import Objective, Term
from nas.objective.precisions import RANGE_IMAGES
from scripts.ranking.networks import pick
from scripts.ranking.statistics import Estimate, compare
from search_spaces.command import Flags, align, flag, parse, run
from search_spaces.command.files import write_json
from search_spaces.deployed import deployed

TAU = 0.9  # at least, of simulated int8
CPU = torch.device("cpu")
ROUNDS, BATCH = 5, 64  # of the timing, and its images
BY_MACS = Objective((Term("macs", 1.0, 1.0),), {})
PREDICTORS = ("float32", "simulated int8")


@dataclass(frozen=True)
class Config(Flags):
    run: str | None = flag(None, "run of the supernet (default: the newest)")
    count: int = flag(12, "networks, the largest and the smallest among them", minimum=8)
    num_images: int | None = flag(None, "test images (default: all)", minimum=2)
    calibration_images: int | None = flag(
        None, "training images that norms are recalibrated on (default: if norms are shared 2048)", minimum=0
    )
    seed: int = flag(0, "of the networks", minimum=0)


class OnnxFile(nn.Module):
    """An ONNX file that answers as a module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, session_options(threads=0), ["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self.session.run(["logits"], {"images": x.contiguous().numpy()})[0]))


def study(config: Config) -> tuple[dict[str, Any], Path]:
    """The result as JSON, and the file that holds it.

    Raises:
        UserError: no such run, or a space of too few networks.
    """
    folder = runs.find_trained(config.run)
    data, supernet = runs.load_run_data(folder), load_supernet(folder, CPU)
    space, size = supernet.space, supernet.space.image_size
    norms = calibration_batches(data.train, size, calibration_count(supernet, config.calibration_images), CPU)
    ranges = calibration_batches(data.train, size, RANGE_IMAGES, CPU)
    images = data.test.spread(config.num_images or len(data.test))
    archs = pick(space, Costs(space, {}, BY_MACS), config.count, config.seed)
    networks: list[dict[str, Any]] = []
    for arch in archs:
        networks.append(_of_network(inherited(supernet, arch, norms), size, images, ranges, space.to_json(arch)))
        print("  ".join(f"{name} {100 * networks[-1][name]:.2f} %" for name in (*PREDICTORS, "file")), flush=True)
    result = {
        "command": runs.command_line(),
        "num_images": len(images),
        "networks": networks,
        "time_ratio": float(np.median([n["int8_s"] / n["float32_s"] for n in networks])),
        "predictors": {name: _agreement(networks, name) for name in PREDICTORS},
    }
    path = runs.RUNS / "studies" / f"int8-{folder.name}" / "result.json"
    write_json(path, result)
    return result, path


def _of_network(
    model: nn.Module, size: int, images: Images, ranges: Sequence[Tensor], arch: dict[str, Any]
) -> dict[str, Any]:
    """Its accuracies, and the seconds that a batch takes."""
    simulated, shipped = quantized(model, ranges), deployed(model)
    with tempfile.TemporaryDirectory() as place:
        whole, int8 = Path(place) / "model.onnx", Path(place) / "model-int8.onnx"
        write_onnx(shipped, whole, size, {}, None)
        write_int8(whole, int8, [image[None].numpy() for batch in ranges for image in batch], ())
        right = right_answers([model, simulated, OnnxFile(int8)], images, size, CPU).mean(axis=1)
    accuracies = dict(zip((*PREDICTORS, "file"), map(float, right), strict=True))
    batch = ranges[0][:BATCH]
    seconds = np.min([[_seconds(each, batch) for each in (model, simulated)] for _ in range(ROUNDS)], axis=0)
    return {"arch": arch, **accuracies, "float32_s": seconds[0], "int8_s": seconds[1]}


@torch.inference_mode()
def _seconds(model: nn.Module, batch: Tensor) -> float:
    start = time.perf_counter()
    model(batch)
    return time.perf_counter() - start


def _agreement(networks: Sequence[dict[str, Any]], predictor: str) -> dict[str, Any]:
    predicted, files = [n[predictor] for n in networks], [n["file"] for n in networks]
    difference = 100 * float(np.abs(np.subtract(predicted, files)).mean())
    return {"kendall": asdict(compare(predicted, files)["kendall"]), "mean_abs_points": difference}


def as_text(result: dict[str, Any]) -> str:
    rows = [("against the int8 file", "Kendall's τ, 95 %", "points off")]
    for name, of in result["predictors"].items():
        tau = Estimate(**of["kendall"])
        told = "–" if tau.value is None else f"{tau.value:.3f} ({tau.low:.3f}–{tau.high:.3f})"
        rows.append((name, told, f"{of['mean_abs_points']:.2f}"))
    tau = result["predictors"]["simulated int8"]["kendall"]["value"]
    verdict = "reached" if (tau or 0.0) >= TAU else "MISSED"
    return (
        f"{align(rows, '<>>')}\n{len(result['networks'])} networks on {result['num_images']:,} test images; τ of at "
        f"least {TAU}: {verdict}; int8 takes {result['time_ratio']:.2f} of the time of float32"
    )


def main(argv: Sequence[str] | None = None) -> None:
    result, path = study(parse(Config, argv, "python -m scripts.ranking.int8", __doc__ or ""))
    print(f"{as_text(result)}\nwrote {path}")


if __name__ == "__main__":
    run(main)
