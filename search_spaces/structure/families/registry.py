"""The families of models that can be pruned: a file each that makes a model prunable and describes it."""

from __future__ import annotations

import copy
import inspect
from types import ModuleType

from torch import nn

from search_spaces.command import UserError
from search_spaces.structure.base import Structure
from search_spaces.structure.families import efficientformerv2, efficientvit, mobileone, mobilevit, swin, vit

# of each: MODELS, what they are called; is_member(model); prepare(model), in place; describe(model), of a prepared one;
# SOURCE: where timm's own modules cannot be cut, the imports and the objects that `prepare` consists of, it the last
FAMILIES: tuple[ModuleType, ...] = (vit, swin, efficientformerv2, efficientvit, mobilevit, mobileone)


def prepare(model: nn.Module) -> Structure:
    """Makes a model prunable, in place, without changing its tensors or what it computes, and describes it.

    Raises:
        UserError: of an unknown family, or a variant of a known one that its file does not describe.
    """
    for family in FAMILIES:
        if not family.is_member(model):
            continue
        try:
            family.prepare(model)
            structure: Structure = family.describe(model)
        except (AssertionError, AttributeError, KeyError, TypeError) as error:
            what = str(error) or type(error).__name__
            raise UserError(f"cannot prune this variant of {family.MODELS} ({what}); give another network") from None
        return structure
    raise UserError(f"cannot prune this {type(model).__name__}; known are timm's {known()}")


def is_known(model: nn.Module) -> bool:
    """Whether `prepare` describes it; the model stays as it is."""
    try:
        prepare(copy.deepcopy(model))
    except UserError:
        return False
    return True


def source_of_prepare(model: nn.Module) -> tuple[str, str]:
    """The imports and the Python source of a function `prepare(model)` of the model's family, without anything of ours.

    Empty where timm's own modules can be cut.
    """
    family = next(family for family in FAMILIES if family.is_member(model))
    imports, *objects = getattr(family, "SOURCE", ("",))
    return imports, "\n\n".join(map(inspect.getsource, objects))


def known() -> str:
    """The names of the families."""
    return ", ".join(family.MODELS for family in FAMILIES)
