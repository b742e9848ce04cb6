"""Networks whose weights all show in the output, to compare a runtime's results with torch's."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from latency_lut.backends.base import Job, blocks_job, network_job
from search_spaces import SearchSpace


def parity_jobs(space: SearchSpace) -> dict[str, Job]:
    """One block of every kind, and the largest network."""
    kinds = {block.kind: block for block in space.lower(space.largest)}
    jobs = {kind: blocks_job([block] * (2 if block.chainable else 1)) for kind, block in kinds.items()}
    return {name: _lively(job) for name, job in (jobs | {"network": network_job(space, space.largest)}).items()}


def _lively(job: Job) -> Job:
    """As trained: fresh layer scales of 1e-5 would hide whatever a block computes, and fresh statistics do nothing."""

    def build() -> nn.Module:
        module = job.build()
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if tensor.is_floating_point() and (tensor.ndim == 1 or name.endswith("gamma")):
                    tensor.uniform_(0.5, 1.5)
        return module

    return replace(job, build=build)
