"""The embedded scenes as folders, to see the forms that your own boxes and masks may have.

    python -m nas.scenes --out scenes

Writes scenes/train and scenes/test, each with images/, annotations.json (COCO's form: boxes, and masks as run lengths)
and masks/ (PNG with an index a pixel). They are read as the embedded ones are by
    --data scenes/train --test-data scenes/test
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.scenes.embedded import scenes
from nas.scenes.writing import write_scenes
from search_spaces.command import Flags, UserError, flag, parse, run
from search_spaces.command.files import atomic_folder


@dataclass(frozen=True)
class Config(Flags):
    out: str = flag("scenes", "folder to write")


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, "python -m nas.scenes", __doc__ or "")
    if Path(config.out).exists():
        raise UserError(f"{config.out} exists; give another --out")
    with atomic_folder(Path(config.out)) as folder:
        for name, test in (("train", False), ("test", True)):
            write_scenes(folder / name, scenes(test))
    print(f"wrote {config.out}/train and {config.out}/test")


if __name__ == "__main__":
    run(main)
