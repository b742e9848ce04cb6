"""Losses against their definitions in NumPy, gradients against autograd of the definitions or worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from supernet.losses import CLIP, adaptive_alpha_divergence, soft_cross_entropy


def some_logits(scale: float, batch: int = 12, classes: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(2, batch, classes, generator=generator)).double()
    return student.requires_grad_(), teacher


def probabilities(logits: Tensor) -> np.ndarray:
    e = np.exp(logits.detach().numpy())
    return e / e.sum(axis=1, keepdims=True)


def divergences(p: np.ndarray, q: np.ndarray, clip: float = np.inf) -> np.ndarray:
    """(2, batch): α = -1 and α = 1, from Σ q ((p/q)^α - 1) / (α (α - 1)) and its limit."""
    return np.stack([((q * np.minimum(q / p, clip)).sum(axis=1) - 1) / 2, (p * np.log(p / q)).sum(axis=1)])


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, logits)
    return found


def test_soft_cross_entropy_has_the_gradient_of_the_kl_divergence() -> None:
    logits, teacher = some_logits(2.0)
    q, p = probabilities(logits), probabilities(teacher)
    loss = soft_cross_entropy(logits, teacher)
    assert loss.item() == pytest.approx(-(p * np.log(q)).sum(axis=1).mean(), rel=1e-5)
    np.testing.assert_allclose(gradient(loss, logits), (q - p) / len(p), atol=1e-6)


def test_alpha_divergence_is_the_larger_of_two() -> None:
    logits, teacher = some_logits(0.3)
    p, q = probabilities(teacher), probabilities(logits)
    assert (q / p).max() < CLIP, "nothing is clipped"
    both = divergences(p, q)
    assert set(both.argmax(axis=0)) == {0, 1}, "each is the larger for some image"
    assert adaptive_alpha_divergence(logits, teacher).item() == pytest.approx(both.max(axis=0).mean(), rel=1e-4)


def test_alpha_divergence_has_the_definitions_gradient_where_nothing_is_clipped() -> None:
    logits, teacher = some_logits(0.3)
    p, q = teacher.softmax(dim=1), logits.softmax(dim=1)
    left = ((q * (p / q) ** -1.0).sum(dim=1) - 1) / 2
    right = (p * (p / q).log()).sum(dim=1)
    expected = gradient(torch.maximum(left, right).mean(), logits)
    torch.testing.assert_close(
        gradient(adaptive_alpha_divergence(logits, teacher), logits), expected, rtol=0, atol=1e-6
    )


def test_importance_weights_are_clipped() -> None:
    logits, teacher = some_logits(2.0)
    p, q = probabilities(teacher), probabilities(logits)
    both = divergences(p, q, CLIP)
    rows = (both[0] > both[1]) & (q / p > CLIP).any(axis=1)
    assert rows.any()
    weights = q * np.minimum(q / p, CLIP)  # constants: the gradient is that of Σ weights · log q
    expected = (weights - weights.sum(axis=1, keepdims=True) * q) / len(p)
    loss = adaptive_alpha_divergence(logits, teacher)
    assert loss.item() == pytest.approx(both.max(axis=0).mean(), rel=1e-5)
    np.testing.assert_allclose(gradient(loss, logits)[rows], expected[rows], atol=1e-6)


def test_where_alpha_is_one_the_gradient_is_that_of_kl() -> None:
    """A student that misses a class of the teacher: unlike the other weights, these are not clipped."""
    logits = torch.tensor([[0.0, -6.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 3.0, 0.0]])
    p, q = probabilities(teacher), probabilities(logits)
    assert divergences(p, q, CLIP).argmax(axis=0) == 1 and (p / q).max() > CLIP
    expected = gradient(soft_cross_entropy(logits, teacher), logits)
    torch.testing.assert_close(gradient(adaptive_alpha_divergence(logits, teacher), logits), expected)


@pytest.mark.parametrize("loss", [soft_cross_entropy, adaptive_alpha_divergence])
def test_confident_networks_that_disagree(loss) -> None:
    """Ratios of probabilities that overflow, in either direction; bf16 logits give a float32 loss."""
    logits = torch.tensor([[90.0, -90.0, 0.0], [-90.0, 90.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    value = loss(logits, torch.tensor([[-90.0, 90.0, 0.0], [-90.0, 90.0, 0.0]], dtype=torch.bfloat16))
    assert value.dtype == torch.float32 and value.isfinite()
    found = gradient(value, logits)
    assert found.isfinite().all() and found[0].abs().sum() > 0 and found[1].abs().sum() == 0
