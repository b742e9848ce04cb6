"""MobileViT's patch sizes on your device: 2 in all three stages against larger ones.

    python -m scripts.study_patches                                         # ONNX Runtime, 1 thread: a minute
    python -m scripts.study_patches --backend coreml --compute-unit cpu_and_ne

Parameters are the same for all patch sizes, and larger patches mean fewer positions for attention to compare. The
paper's column is an iPhone 12's neural engine, the mean of 100 runs: Table 6 for S, Table 9 for XS (their 2,2,2 rows
are of different measurements). At 3,3,3 features are resized before and after the attention, in the paper as here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from latency_lut.backends.base import Job
from latency_lut.measurement.interpreter import delegate
from scripts.device_studies.studies import Network, StudyConfig, report, run_study
from search_spaces.command import parse, run, spell

if TYPE_CHECKING:
    from torch import nn

MODULE = "scripts.study_patches"
IMAGE_SIZE = 256
PUBLISHED = (2, 2, 2)
LARGE = (8, 4, 2)

# ms on an iPhone 12 by patch sizes at 1/8, 1/16 and 1/32 of the image's size: MobileViT, Tables 6 (S) and 9 (XS).
PAPER_MS: dict[str, dict[tuple[int, int, int], float | None]] = {
    "mobilevit_s": {PUBLISHED: 9.85, (3, 3, 3): 14.69, (4, 4, 4): 8.23, LARGE: 8.20},
    "mobilevit_xs": {PUBLISHED: 7.28, LARGE: 5.93},
    "mobilevit_xxs": {PUBLISHED: None, LARGE: None},
}


def mobilevit(name: str, patches: tuple[int, int, int]) -> nn.Module:
    """timm's MobileViT with other patch sizes in its three stages with attention; its weights do not depend on them."""
    import timm
    from timm.models.mobilevit import MobileVitBlock

    model = timm.create_model(name, pretrained=False)
    blocks = [module for module in model.modules() if isinstance(module, MobileVitBlock)]
    for block, size in zip(blocks, patches, strict=True):
        block.patch_size, block.patch_area = (size, size), size * size
    return model


def networks() -> dict[str, Network]:
    """All rows, by name."""
    return {
        _label(name, patches): Network(
            Job((3, IMAGE_SIZE, IMAGE_SIZE), partial(mobilevit, name, patches)), _label(name, PUBLISHED), paper_ms
        )
        for name, published in PAPER_MS.items()
        for patches, paper_ms in published.items()
    }


def _label(name: str, patches: tuple[int, ...]) -> str:
    return f"{name} {','.join(map(str, patches))}"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(StudyConfig, argv, f"python -m {MODULE}", "What patch sizes cost (MobileViT).")
    if delegate(config.python, MODULE, argv):
        return
    result, out = run_study("patches", networks(), config.make_backend(), config, spell(MODULE, config))
    print(report(result, f"patch sizes at {IMAGE_SIZE} px; ratios to {','.join(map(str, PUBLISHED))}", "iPhone 12"))
    print(out)


if __name__ == "__main__":
    run(main)
