"""Export retrained winners: ONNX, Core ML, timm code with safetensors, LiteRT and ExecuTorch, as floats or int8.

Bare: every winner of the newest run that retrained one, as ONNX, Core ML (float16) and timm. Each file is compared with
the network it was made from, and tried on the test images in its own runtime. A Core ML package is converted and
checked on any system, but Core ML runs on Apple's alone: elsewhere PyTorch executes the saved program.

    python -m nas.export --formats onnx coreml --precision float32 int8
    python -m nas.export --formats litert --precision float32 int8 --python ../litert/bin/python
    python -m nas.export --verify    # on a Mac, of packages that were exported elsewhere
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from latency_lut.measurement.interpreter import delegate
from nas import runs
from nas.exporting.export import PACKAGES, Config, export
from nas.runs.next_step import say_next
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(Config, argv, "python -m nas.export", __doc__ or "")
    if delegate(config.python, "nas.export", argv, PACKAGES):
        return
    export(config)
    say_next("nas.report", runs.find_run(config.run, "export/*/result.json", "python -m nas.export"))


if __name__ == "__main__":
    run(main)
