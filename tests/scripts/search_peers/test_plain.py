"""A network of timm in torch's own layers computes the same, and its tensors find their names again."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from scripts.search_peers.plain import original_names, plain
from search_spaces import UserError

IMAGE = torch.zeros(1, 3, 32, 32)


def lite() -> nn.Module:
    """Depthwise and strided convolutions that pad as TensorFlow does, norms that hold their activation."""
    model = timm.create_model("test_efficientnet", num_classes=3, pad_type="same")
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) / 4)
    return model.eval()


def test_it_computes_the_same_in_layers_of_torch() -> None:
    torch.manual_seed(0)
    model = lite()
    found = plain(model, IMAGE)
    leaves = {type(layer).__module__ for layer in found.modules() if not list(layer.children())}
    assert any("timm" in type(layer).__module__ for layer in model.modules() if not list(layer.children()))
    assert all(module.startswith("torch.nn") for module in leaves)
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(found(images), model(images))


def test_tensors_have_their_own_names_and_shapes_again() -> None:
    model = lite()
    tensors = original_names(plain(model, IMAGE).state_dict(), model)
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())


def test_what_flattens_before_its_classifier_is_refused() -> None:
    with pytest.raises(UserError, match="FastNAS cannot be given VisionTransformer"):
        plain(timm.create_model("test_vit", num_classes=3, img_size=32), IMAGE)
