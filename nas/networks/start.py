"""Where a supernet starts: a network with weights, its classifier fitted to the user's classes, its units in order.

Units come in the order of their importance, so that the first of each dimension, which smaller networks have, are those
that matter; the network computes what it did.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import timm
import torch
from torch import Tensor, nn

from nas import runs
from nas.data import Images
from nas.data.batches import eval_batches, normalize
from nas.networks import importance
from nas.networks.checkpoints import check_finite, classifiers, fitted, num_classes_of, read_state
from nas.networks.weights import PRETRAINED, check_architecture, init_file, load_prepared, timm_name
from search_spaces import Arch, SearchSpace, UserError
from search_spaces.command import reason, start
from search_spaces.structure.base import Structure
from search_spaces.structure.families.registry import prepare
from search_spaces.structure.slicing import permute
from search_spaces.timm_network.space import TimmSpace
from supernet import Supernet

Order = Literal["taylor", "magnitude"]


class Begun(TypedDict):
    """What a supernet's `config.json` says of its start: `init` is None of one that began with fresh weights."""

    init: str | None
    order: Order
    norm: Literal["width", "shared"]


FIT_IMAGES, FIT_ITERATIONS = 10_000, 300
ORDER_IMAGES = 256
UNCHANGED = 1e-4  # of the largest logit: what another order of summation may change


def load_start(space: SearchSpace, init: str, archs: Mapping[str, Arch] | None = None) -> tuple[Arch, nn.Module, bool]:
    """The network that a supernet starts from, which one of the space it is, and whether its classifier is a new one.

    Args:
        init: `pretrained`, timm's own weights, which are the largest's; a file of weights; or a folder of ours that has
            some.
        archs: which networks the weights may be of, by name; None for the largest and those that are published.

    Raises:
        UserError: no such weights, or of no network of the space that has a name.
    """
    if init == PRETRAINED:
        return space.largest, *_downloaded(space)
    file = init_file(init)
    state = read_state(file)
    problems = []
    archs = archs or {"largest": space.largest, **space.published}
    check_architecture(init, file, [timm_name(space, name) for name in archs])
    for name, arch in archs.items():
        network: Any = space.build(arch)
        found = fitted(network, timm_name(space, name), dict(state), file, resize=True)
        is_new = num_classes_of(network, found) not in (None, space.num_classes)
        if is_new:
            found |= {n: t for n, t in network.state_dict().items() if n.rpartition(".")[0] in _classifiers(network)}
        if problem := load_prepared(network, found):
            problems.append(problem)
            continue
        check_finite(found, file)
        return arch, network.eval(), is_new
    raise UserError(f"--init {file} has the weights of no network of {space.name}: {problems[0]}")


def fitted_start(
    space: SearchSpace, init: str, images: Images, device: torch.device, num_workers: int = 0
) -> tuple[Arch, nn.Module]:
    """The network that `init` names and which one of the space it is, its classifier fitted to the (training) images if
    it is new and linear.

    Raises:
        UserError: what `load_start` raises.
    """
    arch, network, is_new = load_start(space, init)
    if is_new and not linear_classifiers(network):
        said = "begins with fresh weights: it has no linear layer that could be fitted"
        print(f"the new classifier of {space.num_classes} classes {said}", flush=True)
    elif is_new:
        print(f"a new classifier of {space.num_classes} classes is fitted to the features of {init}", flush=True)
        fit_classifier(network, images, space.image_size, device, num_workers)
    return arch, network


def _classifiers(network: Any) -> tuple[str, ...]:
    """Paths of the layers that make logits."""
    if known := classifiers(network):
        return known
    return tuple(name for name, part in network.named_modules() if part in _as_tuple(network.get_classifier()))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _downloaded(space: SearchSpace) -> tuple[nn.Module, bool]:
    if not isinstance(space, TimmSpace):
        raise UserError(f"--init pretrained is for timm/NAME; of {space.name} give a file of weights")
    name, options = space.network.name, space.network.options
    config = timm.get_pretrained_cfg(name)
    try:
        with start.online():
            network = timm.create_model(name, pretrained=True, num_classes=space.num_classes, **options)
    except Exception as error:  # whatever the network and the hub's client raise
        where = f"{config.hf_hub_id or config.url} " if config else ""
        remedy = f"fetch {where}elsewhere and give the file with --init"
        if start.is_kept_offline():
            remedy = f"{start.OFFLINE[0]} is set: unset it, or {remedy}"
        raise UserError(f"the weights of {name} cannot be had ({reason(error)}); {remedy}") from None
    return network.eval(), config is None or config.num_classes != space.num_classes


# ---- a classifier for the user's classes


@torch.inference_mode()
def fit_classifier(network: Any, images: Images, image_size: int, device: torch.device, num_workers: int = 0) -> None:
    """Fits the classifiers of the network, frozen otherwise, to (at most 10,000 of) the images, in place.

    A logistic regression on what each of them is given, computed once. What is no `linear_classifiers` is left as it
    is.

    Raises:
        UserError: the images that can be read are none, or of one class; features that are not finite.
    """
    layers = linear_classifiers(network)
    if not layers:
        return
    features, rows = _features(network.to(device).eval(), layers, images, image_size, num_workers)
    before, fit = torch.empty(0), None
    for layer, table in features.items():
        if fit is None or not torch.equal(table, before):  # two classifiers may be given the same
            before, fit = table, _regression(table.numpy(), rows)
        classes, weight, bias = fit
        layer.weight.data[classes] = weight.view(-1, *layer.weight.shape[1:]).to(device)
        if layer.bias is not None:
            layer.bias.data[classes] = bias.to(device)


def linear_classifiers(network: Any) -> list[nn.Linear | nn.Conv2d]:
    """The layers that make logits, as far as they are linear or 1x1 convolutions."""
    names = _classifiers(network)
    return [layer for name, layer in network.named_modules() if name in names and _is_linear(layer)]


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.weight[0].numel() == layer.in_channels
    )


def _features(
    network: nn.Module, layers: Sequence[nn.Linear | nn.Conv2d], images: Images, image_size: int, num_workers: int
) -> tuple[dict[nn.Linear | nn.Conv2d, Tensor], np.ndarray]:
    """(images, features) that each layer is given while the network runs, the mean of an image's positions, and the
    images' (images,) labels; those that cannot be read are left out.

    Raises:
        UserError: those that can be read are none, or of one class; features that are not finite.
    """
    taken: dict[Any, list[Tensor]] = {layer: [] for layer in layers}
    labels = []

    def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        x = x.movedim(1, -1) if isinstance(layer, nn.Conv2d) else x
        taken[layer].append(x.reshape(len(x), -1, x.shape[-1]).mean(1).float().cpu())

    hooks = [layer.register_forward_pre_hook(take) for layer in layers]
    device = layers[0].weight.device
    try:
        for batch, found in eval_batches(images.spread(FIT_IMAGES), image_size, 128, num_workers):
            if (read := found >= 0).any():
                network(normalize(batch[read], device, images.normalization))
                labels.append(found[read])
    finally:
        for hook in hooks:
            hook.remove()
    if not labels:
        raise UserError(f"none of {len(images)} training images to fit a classifier to can be read; see the warnings")
    rows = torch.cat(labels).numpy()
    if (rows == rows[0]).all():
        raise UserError(
            f"all {len(rows)} training images to fit a classifier to that can be read are of class number {rows[0]}; "
            "see the warnings"
        )
    features = {layer: torch.cat(tables) for layer, tables in taken.items() if tables}
    if not all(table.isfinite().all() for table in features.values()):
        raise UserError(
            "the network makes features of the training images that are not finite, so no classifier can be fitted to "
            "them; give --init weights of a training that went well"
        )
    return features, rows


def _regression(table: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, Tensor, Tensor]:
    """The classes that occur, and the weight (classes, features) and bias (classes,) of their logits."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scale = float(table.std()) or 1.0
    model = LogisticRegression(C=0.01, max_iter=FIT_ITERATIONS)
    with warnings.catch_warnings():  # that it could go on: training does
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(table / scale, rows)
    weight, bias = torch.from_numpy(model.coef_ / scale).float(), torch.from_numpy(model.intercept_).float()
    if len(model.classes_) == 2:  # it has one row, of the second
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return model.classes_, weight, bias


# ---- units in order


def order_units(
    space: SearchSpace, network: nn.Module, order: Order, images: Images, device: torch.device, num_workers: int = 0
) -> None:
    """Brings the units of every dimension into the order of their importance, the most important first, in place."""
    if order == "magnitude":
        order_by_magnitude(space, network)
        return
    batches = _batches(images, space.image_size, device, num_workers)
    _order(space, network, lambda copied, structure: importance.taylor(copied.to(device), structure, batches))


def order_by_magnitude(space: SearchSpace, network: nn.Module) -> None:
    """The same by their weights alone, which needs no images."""
    _order(space, network, importance.magnitude)


def _order(space: SearchSpace, network: nn.Module, scored: Callable[[nn.Module, Structure], importance.Scores]) -> None:
    copied = copy.deepcopy(network)
    structure = _structure(space, copied)
    scores = scored(copied, structure)
    orders = {name: torch.argsort(score, descending=True, stable=True).numpy() for name, score in scores.items()}
    permute(network, structure, orders)


def _structure(space: SearchSpace, network: nn.Module) -> Structure:
    """Makes the network one whose units can be ranked, in place, and says what they are."""
    if not isinstance(space, TimmSpace):
        return prepare(network)
    space.network.prepare(network)
    return space.network.structure


def _batches(
    images: Images, image_size: int, device: torch.device, num_workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    chosen = images.spread(ORDER_IMAGES)
    for batch, labels in eval_batches(chosen, image_size, importance.TAYLOR_BATCH, num_workers):
        if bool((read := labels >= 0).any()):
            yield normalize(batch[read], device, images.normalization), labels[read].to(device)


# ---- the supernet that starts from it


def ordered_start(
    space: SearchSpace, init: str, order: Order, images: Images, device: torch.device, num_workers: int = 0
) -> tuple[Arch, nn.Module]:
    """As `fitted_start`, and the network's units in order, by the same images."""
    arch, network = fitted_start(space, init, images, device, num_workers)
    order_units(space, network, order, images, device, num_workers)
    return arch, network


def check_start(run: Path) -> Begun:
    """How the run's supernet began. UserError if it had no weights to begin with."""
    begun = runs.begun_with(Begun, run / "supernet")
    if begun["init"] is None:
        raise UserError(
            f"--init pretrained-slice: the supernet of {run} began with fresh weights; give inherit or scratch, or "
            "begin a run with nas.finetune"
        )
    return begun


def untrained_supernet(run: Path, images: Images, device: torch.device, num_workers: int = 0) -> Supernet:
    """The run's supernet as its training began, in evaluation mode: parts of it are those of the network that it starts
    from, which nothing has trained.

    Raises:
        UserError: it began with fresh weights, or those that it began with are gone.
    """
    begun = check_start(run)
    space = runs.load_run_info(run).search_space()
    init = runs.follow(str(begun["init"]), run)
    supernet = Supernet(space, norm=begun["norm"])
    take_over(supernet, *ordered_start(space, init, begun["order"], images, device, num_workers))
    return supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


@torch.inference_mode()
def take_over(supernet: Supernet, arch: Arch, network: nn.Module) -> None:
    """Puts the network's weights into the supernet, whose network `arch` then computes the same.

    Raises:
        AssertionError: it does not.
    """
    network = network.cpu().eval()
    supernet.load_network(arch, network.state_dict())
    size = supernet.space.image_size
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, size, size), dtype=np.float32))
    of_network, of_supernet = network(x), supernet.extract(arch).cpu()(x)  # a GPU rounds more coarsely
    several = isinstance(of_network, tuple)
    pairs = zip(of_network, of_supernet, strict=True) if several else [(of_network, of_supernet)]
    error = max(float((found - expected).abs().max() / expected.abs().max()) for expected, found in pairs)
    assert error <= UNCHANGED, f"the supernet's network differs from the one it starts from by {error:.1e}"
