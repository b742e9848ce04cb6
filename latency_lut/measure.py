"""python -m latency_lut.measure FOLDER: times the models that `latency_lut.export` wrote, on the machine they are for.

Needs this package, the runtime, numpy, tqdm and filelock; not torch, not timm. For Core ML: a Mac with coremltools, and
for a phone or tablet (`--device`) that it is connected. For Android: adb, and in place of the runtime its benchmark
program (`--device adb:SERIAL --benchmark-binary PATH`). Gives one JSON file, of which `latency_lut.build --from` makes
a table. What a killed or disconnected measurement has taken is kept: the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from latency_lut.measurement.manifest import TAKERS, Result
from latency_lut.measurement.measure import MODULE, MeasureConfig, measure_folder
from search_spaces.command import parse, run


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(
        MeasureConfig, argv, f"python -m {MODULE}", "Time exported models on this machine or a connected device."
    )
    out = measure_folder(config)
    result = Result.load(out)
    print(result.runtime)
    if result.measurement.busy:
        print("WARNING: the machine was busy or hot; measure again when it is quiet")
    taker = TAKERS[result.manifest.purpose]
    of = " --table ITS-TABLE" if result.manifest.table else ""
    print(f"{out}\nwhere the table is wanted: python -m latency_lut.{taker}{of} --from {out.name}")


if __name__ == "__main__":
    run(main, "the same command goes on with what was measured")
