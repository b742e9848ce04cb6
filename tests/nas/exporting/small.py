"""A network whose exports take a second, of scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nas import runs

SIZE = 16


class Net(nn.Module):
    """Tells digits apart by nothing but chance, yet every image in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@dataclass(frozen=True)
class Network:
    info: runs.RunInfo
    factor: float = 1.0

    description = "a test"
    metadata = {"name": "net", "classes": "[]"}  # noqa: RUF012

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = Net().eval()
        with torch.no_grad():
            net.stem.weight[0] *= self.factor
            net.get_parameter("stem.bias")[0] = 0.0
            net.get_parameter("body.1.weight")[:, 0] /= self.factor
        return net
