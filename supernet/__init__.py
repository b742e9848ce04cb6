"""The supernet: one weight store for all networks of a space, and how it is trained."""

from supernet.losses import LOSSES
from supernet.recalibrate import measure_statistics, recalibrate
from supernet.sampling import SAMPLERS, middle, shrunk
from supernet.step import train_step
from supernet.store import Supernet

__all__ = ["LOSSES", "SAMPLERS", "Supernet", "measure_statistics", "middle", "recalibrate", "shrunk", "train_step"]
