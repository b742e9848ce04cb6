"""The whole job on embedded data, as `make run` does it: the commands a user types, one after another.

About five minutes on two cores. Every line beginning with $ can be typed as it stands.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime

from search_spaces import UserError
from search_spaces.command import Flags, parse, run


@dataclass(frozen=True)
class Config(Flags):
    """There is nothing to set."""


def commands(name: str) -> list[list[str]]:
    return [
        ["nas.train_supernet", "--run", name],
        ["latency_lut.build"],
        ["latency_lut.validate"],
        ["nas.search", "--run", name, "--alpha-latency", "1.0", "--alpha-size", "0.5"],
        ["nas.retrain", "--run", name],
        ["nas.export", "--run", name],
        ["nas.report", "--run", name],
    ]


def main() -> None:
    parse(Config, None, "python scripts/run.py", __doc__ or "")
    start = time.monotonic()
    for module, *flags in commands(f"digits-{datetime.now().astimezone():%Y%m%d-%H%M%S}"):
        print(f"\n$ {' '.join(['python -m', module, *flags])}", flush=True)
        if subprocess.run([sys.executable, "-m", module, *flags], check=False).returncode:
            raise UserError(f"{module} failed; its message is above, and what was finished stays under runs/")
    print(f"\nall of it in {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    run(main)
