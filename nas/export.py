"""Export retrained winners: ONNX with a dynamic batch, a float16 Core ML package, and timm code with safetensors.

Bare: every winner of the newest run that retrained one, in all formats. Each export is compared with the network it
was made from and refused if it differs. The Core ML package is converted and checked on any system, but Core ML runs on
Apple's alone: elsewhere the saved program is executed by PyTorch, operator by operator, in its own precision.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas import runs
from nas.exporting.export import Config, export
from nas.runs.next_step import say_next
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, "python -m nas.export", __doc__ or "")
    export(config)
    say_next("nas.report", runs.find_run(config.run, "export/*/result.json", "python -m nas.export"))


if __name__ == "__main__":
    run(main)
