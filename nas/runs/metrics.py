"""How a training run goes: metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from search_spaces.command.files import write_text
from search_spaces.command.typed import Amount, Count, load_typed_lines, read_typed


class Metrics(TypedDict):
    """A line of metrics.jsonl, beside more numbers by their names."""

    step: Count
    epoch: Amount
    epochs: NotRequired[Count]
    lr: NotRequired[Amount]


def _check_numbers(line: Metrics) -> None:
    read_typed(dict[str, float], line, "it")


Line = Annotated[Metrics, _check_numbers]


class MetricsLog:
    """metrics.jsonl and TensorBoard events; lines past the resumed step are cut, so that a step is there once."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = self.path.open("a")
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else 0)

    def write(self, metrics: dict[str, Any]) -> None:
        self.file.write(json.dumps(metrics) + "\n")
        self.file.flush()
        for name, value in metrics.items():
            if name != "step":
                self.events.add_scalar(name, value, metrics["step"])

    def flush(self) -> None:
        self.events.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.events.close()


def read_metrics(path: Path) -> list[Metrics]:
    """The lines of a metrics.jsonl, none if there is no file. UserError if one is not a step and its metrics."""
    return load_typed_lines(Line, path, "restore it or cut the line")
