"""What a subnet learns from a teacher's predictions. Each loss: (batch, classes) logits of both -> scalar."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Tensor | tuple[Tensor, Tensor]  # of a head's one classifier (or its two, averaged), or of each of its two
Distillation = Callable[[Tensor, Tensor], Tensor]  # (logits, teacher logits without gradient)

ALPHAS = (-1.0, 1.0)  # AlphaNet's: one punishes over-estimated, the other under-estimated uncertainty
CLIP = 5.0


def of_each_classifier(loss: Distillation, logits: Logits, teacher_logits: Logits) -> Tensor:
    """The loss, of two classifiers the mean of both: each learns from the teacher's of the same place."""
    if isinstance(logits, Tensor):
        assert isinstance(teacher_logits, Tensor)
        return loss(logits, teacher_logits)
    return torch.stack([loss(own, theirs) for own, theirs in zip(logits, teacher_logits, strict=True)]).mean()


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy against the teacher's distribution: the KL divergence up to a constant without gradient."""
    return F.cross_entropy(logits.float(), teacher_logits.float().softmax(dim=-1))


def adaptive_alpha_divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """For each image the larger of two α-divergences (Wang et al., AlphaNet, ICML 2021).

    D_α(p‖q) = Σ q ((p/q)^α - 1) / (α (α - 1)), p the teacher and q the student; its gradient is
    -1/α Σ q (p/q)^α ∇log q, in which the importance weights (p/q)^α are clipped at 5, or their variance breaks
    training. α = 1 is the limit, the KL divergence, whose weights need no clipping: q (p/q) = p.
    """
    log_p, log_q = teacher_logits.float().log_softmax(dim=-1), logits.float().log_softmax(dim=-1)
    values, surrogates = zip(*(_alpha_divergence(log_p, log_q, alpha) for alpha in ALPHAS), strict=True)
    worst = torch.stack(values).argmax(dim=0, keepdim=True)
    value, surrogate = (torch.stack(terms).gather(0, worst).mean() for terms in (values, surrogates))
    return value + surrogate - surrogate.detach()


def _alpha_divergence(log_p: Tensor, log_q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """(batch,) values without gradient, and terms of which only the gradient, the clipped divergence's, is meant."""
    q, log_ratio = log_q.detach().exp(), log_p - log_q.detach()
    if alpha == 1.0:
        weighted = log_p.exp()
        value = (weighted * log_ratio).sum(dim=-1)
    else:
        weighted = q * (alpha * log_ratio).exp().clamp(max=CLIP)
        value = (weighted.sum(dim=-1) - 1) / (alpha * (alpha - 1))
    return value, -(weighted * log_q).sum(dim=-1) / alpha


# What the networks of a step other than the first learn from; None: from the labels, like the first.
LOSSES: dict[str, Distillation | None] = {
    "ce": None,
    "kl": soft_cross_entropy,
    "alpha": adaptive_alpha_divergence,
}
