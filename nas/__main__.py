"""`python -m nas`, or `mobile-nas` where it is installed: the commands in the order of use, and the way to each.

mobile-nas search --max-latency-ms 2          python -m nas.search --max-latency-ms 2
mobile-nas latency_lut.build --threads 2      python -m latency_lut.build --threads 2
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from search_spaces.command import UserError, run

COMMANDS = {
    "python -m search_spaces": "what can be searched, and what a network of it costs",
    "python -m nas.finetune": "a pretrained network of timm on your images, as it is",
    "python -m nas.train_supernet": "one set of weights for every network of a space, on your images",
    "python -m latency_lut.build": "measure your device, once for each space and image size",
    "python -m latency_lut.validate": "how far that table can be trusted, on networks it has not seen",
    "python -m nas.search": "the accurate, fast and small networks of the supernet",
    "python -m nas.evaluate": "accuracy by class, and what is confused, of any network of a supernet",
    "python -m nas.compare": "which strategy found the better networks, and how fast",
    "python -m nas.retrain": "train the winners on their own, and test them",
    "python -m nas.baselines": "what would have been picked without the search, beside the winners",
    "python -m nas.prune": "part of a network taken away: a winner's, or one of timm's",
    "python -m nas.export": "ONNX, Core ML and timm files of the winners",
    "python -m nas.report": "one page with everything a run has found",
    "python -m nas.detect": "boxes of objects, by a detector over any of these networks",
    "python -m nas.segment": "the class of each pixel, by a segmenter over any of these networks",
    "python -m nas.instances": "a box and a mask for each object, by Mask R-CNN over any of these networks",
}


# The others are for tables, and not of every job.
ALL = [command.removeprefix("python -m ") for command in COMMANDS]
ALL += [f"latency_lut.{name}" for name in ("diff", "export", "measure", "predict", "profile", "show", "transfer")]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command named, with the flags after its name; lists them all if there is none."""
    name, *flags = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name not in ("-h", "--help"):
        _call(_module(name), flags)
        return
    print("In the order of use; each runs bare on embedded data (nas.finetune needs weights), and takes --help:\n")
    width = max(map(len, COMMANDS))
    for command, purpose in COMMANDS.items():
        print(f"  {command:{width}}  {purpose}")
    print("\nEach stage finds the newest run under runs/; name another with --run. Installed, `mobile-nas search` is")
    print("`python -m nas.search`, and `mobile-nas latency_lut.build` is `python -m latency_lut.build`.")


def _module(name: str) -> str:
    """UserError if it is no command."""
    for module in (f"nas.{name}", name):
        if module in ALL:
            return module
    raise UserError(f"there is no command {name!r}; choose from {', '.join(m.removeprefix('nas.') for m in ALL)}")


def _call(module: str, flags: list[str]) -> None:
    """Becomes `python -m`; on Windows, where no process can become another, waits for it."""
    command = [sys.executable, "-m", module, *flags]
    if os.name == "posix":
        os.execv(sys.executable, command)
    sys.exit(subprocess.call(command))


def console() -> None:
    """The entry point `mobile-nas`."""
    run(main)


if __name__ == "__main__":
    run(main)
