"""Stochastic depth of blocks that are timm's: the rate lies in a module of theirs."""

from __future__ import annotations

from typing import Any


class DropsPath:
    """Of a module with a `drop_path`: its rate under the name by which the supernet sets it while it trains."""

    drop_path: Any

    @property
    def drop_prob(self) -> float:
        return float(self.drop_path.drop_prob)

    @drop_prob.setter
    def drop_prob(self, value: float) -> None:
        self.drop_path.drop_prob = value
