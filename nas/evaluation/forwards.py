"""How many images ran through networks that have their beginnings in common."""

from __future__ import annotations

from collections.abc import Sequence

from nas.evaluation.racing import Finish
from search_spaces import Arch, BlockSpec, SearchSpace


def first_difference(a: Sequence[BlockSpec], b: Sequence[BlockSpec]) -> int:
    """Length of the common prefix, at most that of `b`."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def image_forwards(
    space: SearchSpace, base: Arch, archs: Sequence[Arch], images: Sequence[int], *, shared: bool = True
) -> float:
    """Images of each arch; what it shares with `base` from the input on is run once for all that see the image.

    All archs see the same images first. The unit is one image through `base`; parts count by their MACs.
    """
    trunk, macs = space.lower(base), 0
    deepest = [0] * len(trunk)  # images that each block of the trunk is run for
    for arch, count in zip(archs, images, strict=True):
        blocks = space.lower(arch)
        start = first_difference(trunk, blocks) if shared else 0
        macs += count * sum(block.macs for block in blocks[start:])
        deepest[:start] = [max(count, other) for other in deepest[:start]]
    macs += sum(count * block.macs for count, block in zip(deepest, trunk, strict=True))
    return macs / sum(block.macs for block in trunk)


class Forwards:
    """Image-forwards of a slimming, calibration counted, in networks of each step's base.

    `alone`: had each arch been evaluated once, by itself and on all images; `shared`: with its beginning in common with
    the step's others; `run`: what did run.

    Args:
        calibration: images of each batch.
    """

    def __init__(self, space: SearchSpace, num_images: int, calibration: Sequence[int]) -> None:
        self.space, self.num_images = space, num_images
        self.first, self.calibration = (calibration[0] if calibration else 0), sum(calibration)
        self.alone = self.shared = self.run = 0.0
        self._known: set[Arch] = set()

    def add(self, base: Arch, archs: Sequence[Arch], race: Sequence[Finish] | None = None) -> None:
        """A step: its race, or else all its archs on all images, but for those that are known."""
        new = [arch for arch in archs if arch not in self._known]
        each = [self.num_images + self.calibration] * len(new)
        self.alone += sum(image_forwards(self.space, base, [arch], each[:1], shared=False) for arch in new)
        shared = image_forwards(self.space, base, new, each)
        self.shared += shared
        if race is None:
            self.run += shared
        else:
            full = [r.images_seen and r.images_seen + self.calibration for r in race]
            rough = [r.rough_images_seen and r.rough_images_seen + self.first for r in race]
            for led in (True, False):
                images = [count if r.led == led else 0 for count, r in zip(full, race, strict=True)]
                self.run += image_forwards(self.space, base, archs, images)
            if any(rough):
                self.run += image_forwards(self.space, base, [*archs, base], [*rough, self.first])
        self._known.update(archs)

    def to_json(self) -> dict[str, int]:
        return {"alone": round(self.alone), "shared": round(self.shared), "run": round(self.run)}
