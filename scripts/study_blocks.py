"""MobileOne's Tables 1b and 3 on your device: what blocks and activations cost in one network of 30 layers.

    python -m scripts.study_blocks                                          # ONNX Runtime, 1 thread: under a minute
    python -m scripts.study_blocks --backend coreml --compute-unit cpu_and_ne

The networks differ only in their activation or in skip-connections, and hardly in multiply-accumulates (printed with
the parameters); what differs in time is memory traffic and synchronization. The paper's column is an iPhone 12's; it
does not print how its network is built, ours is in `scripts/device_studies/nets.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from latency_lut.backends.base import Job
from latency_lut.measurement.interpreter import delegate
from scripts.device_studies.nets import thirty_layers
from scripts.device_studies.studies import Network, StudyConfig, report, run_study
from search_spaces.command import flag, parse, run, spell

MODULE = "scripts.study_blocks"
BASELINE = "relu"

# ms on an iPhone 12: MobileOne, Table 3, and the two rows of Table 1b that it does not have. Table 1b's "+ squeeze-
# excite" is Table 3's SE-ReLU, 2.10; its next row, "+ skip-connections", is read as on top of it.
ACTIVATIONS_MS = {
    "relu": 1.53,
    "gelu": 1.63,
    "se_relu": 2.10,
    "silu": 2.54,
    "dynamic_shift_max": 57.04,
    "dynamic_relu_a": 273.49,
    "dynamic_relu_b": 242.14,
}
SKIPS_MS = {"relu": None, "se_relu": 2.62}  # with skip-connections; the paper does not print those alone


@dataclass(frozen=True)
class BlocksConfig(StudyConfig):
    image_size: int = flag(224, "height and width of the images", minimum=32, maximum=4096)


def networks(image_size: int) -> dict[str, Network]:
    """All rows, by name."""
    rows = {}
    for skip, published in ((False, ACTIVATIONS_MS), (True, SKIPS_MS)):
        for activation, paper_ms in published.items():
            job = Job((3, image_size, image_size), partial(thirty_layers, activation, skip=skip))
            rows[f"{activation} + skips" if skip else activation] = Network(job, BASELINE, paper_ms)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(BlocksConfig, argv, f"python -m {MODULE}", "What blocks and activations cost (MobileOne).")
    if delegate(config.python, MODULE, argv):
        return
    study, command = f"blocks-{config.image_size}px", spell(MODULE, config)
    result, out = run_study(study, networks(config.image_size), config.make_backend(), config, command)
    print(report(result, f"30 layers at {config.image_size} px; ratios to {BASELINE}", "iPhone 12"))
    print(out)


if __name__ == "__main__":
    run(main)
