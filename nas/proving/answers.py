"""What retrained networks of a search answer on the test images, in the precision of its winners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from nas.data import Data
from nas.evaluation.accuracy import right_answers
from nas.evaluation.intervals import paired_bootstrap, wilson
from nas.evaluation.quantized import quantized
from nas.networks.inherit import calibration_batches
from nas.objective.precisions import RANGE_IMAGES, Precision
from nas.runs.baselines import Accuracy, Difference

SIMULATED = "accuracies are of int8, simulated as ONNX Runtime computes; nas.export measures the files"
BUSY = "WARNING: the machine was busy while networks were timed; measure again when it is quiet"


def right_in(
    precision: Precision,
    models: Sequence[nn.Module],
    data: Data,
    image_size: int,
    device: torch.device,
    num_workers: int,
) -> np.ndarray:
    """(models, images) which test images each model classifies correctly; in int8 as a file of it would.

    Args:
        data: of the run: its training images give int8's ranges.
        device: where the models are brought to.
    """
    models = [model.to(device).eval() for model in models]
    if precision == "int8":
        ranges = calibration_batches(data.train, image_size, RANGE_IMAGES, device, num_workers)
        models = [quantized(model, ranges) for model in models]
    return right_answers(models, data.test, image_size, device, num_workers)


def accuracy_of(right: np.ndarray) -> Accuracy:
    """Of a network, with its 95 % interval.

    Args:
        right: (images,) whether it is right, as `right_in` has it.
    """
    return Accuracy(float(right.mean()), *map(float, wilson(right.sum(), len(right))))


def difference_of(one: str, other: str, right: np.ndarray, others: np.ndarray) -> Difference:
    """The accuracy of a network less that of another, with its 95 % interval.

    Args:
        right, others: (images,) whether each is right, in this order.
    """
    return Difference(one, other, float(right.mean() - others.mean()), *paired_bootstrap(right, others))


def warnings_in(precision: Precision) -> list[str]:
    """What is said of accuracies in it."""
    return [SIMULATED] if precision == "int8" else []
