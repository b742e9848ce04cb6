"""python -m latency_lut.profile: what makes a network slow, by the runtime's own time of every operator.

`--model timm/NAME` or `--arch NAME_OR_FILE` with `--space`: its operators by kind, and how much of its time goes into
memory-bound ones (`latency_lut.backends.operator_kinds` says which). Bare, or `--space` alone: networks of a space with
fewer and fewer blocks of one kind (`--kind`), all else staying as it is. EfficientViT (Section 2.1 and supplement A;
Liu et al., CVPR 2023) finds less memory-bound time in networks with fewer attention blocks, its networks being equally
fast.

Profiling takes time itself, about the same for each operator. How much, the network's time without it tells: it is
measured beside, and shares are also given corrected, with that overhead taken off every operator. Both are means over
the faster half of the runs; of operators OpenVINO tells the mean over all runs only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from latency_lut.measurement.interpreter import delegate
from latency_lut.profiling.profile import ProfileConfig, profile
from latency_lut.profiling.report import text, to_json
from search_spaces.command import parse, run

MODULE = "latency_lut.profile"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(ProfileConfig, argv, f"python -m {MODULE}", "What makes a network slow: time by kind of operator.")
    if delegate(config.python, MODULE, argv):
        return
    report, out = profile(config)
    print(json.dumps(to_json(report), indent=1) if config.json else f"{text(report)}\n\n{out}")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
