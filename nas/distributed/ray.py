"""Ray, on this machine or on a cluster: its flags, and how long it is there.

On a cluster, the run's folder, the data and this source lie at the same paths on every node.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from search_spaces import UserError
from search_spaces.command import Flags, flag, start

TRIES = 4  # of a job whose process dies
STORE_BYTES = 128 * 2**20  # of shared memory, on this machine: archs and accuracies go through it, and no images
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0  # most of which Ray takes to start asking


@dataclass(frozen=True)
class RayConfig(Flags):
    """Flags of a command that works through Ray."""

    ray_workers: int = flag(0, "processes that work at a time, one thread each, through Ray (0: this one)", minimum=0)
    ray_address: str | None = flag(None, "host:port of a Ray cluster, or auto (default: this machine alone)")

    def check_workers(self) -> None:
        """UserError if there is a cluster and nothing is to run on it."""
        if self.ray_address and not self.ray_workers:
            raise UserError(f"--ray-address {self.ray_address} is for --ray-workers; give both or none")


@contextmanager
def cluster(config: RayConfig, device: str) -> Iterator[dict[str, float]]:
    """Ray for `config.ray_workers` processes; yields what each of them takes: one CPU, its share of the GPUs.

    Raises:
        UserError: no cluster at the address, or one with too few CPUs.
    """
    import ray

    options: dict[str, Any] = {"address": config.ray_address}
    if config.ray_address is None:
        options = {"address": "local", "num_cpus": config.ray_workers, "object_store_memory": STORE_BYTES}
        options["include_dashboard"] = False
    elif config.ray_address != "auto":
        check_address(config.ray_address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {"env_vars": {**start.inherited(), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    try:
        ray.init(**options, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises bare ones too
        reason = (str(error).splitlines() or [""])[0]
        if config.ray_address is not None:
            raise _unreachable(config.ray_address, reason) from None
        raise UserError(f"Ray did not start on this machine: {reason} Try again when it is less busy") from None
    try:
        resources = ray.cluster_resources()
        if (cpus := int(resources.get("CPU", 0))) < config.ray_workers:
            raise UserError(
                f"--ray-workers is {config.ray_workers}, the Ray cluster has {cpus} CPUs; give at most that"
            )
        gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
        # Ray places a worker on one GPU: shares that do not add up to whole GPUs would leave the last one waiting
        yield {"num_cpus": 1, "num_gpus": 1 / ceil(config.ray_workers / gpus) if gpus else 0}
    finally:
        ray.shutdown()


def settle(folder: str | Path) -> None:
    """Makes a process of Ray's what a command's is, in the folder that it was called in, with one thread."""
    import torch

    os.chdir(folder)
    torch.set_num_threads(1)
    start.keep_memory()


def check_address(address: str) -> None:
    """UserError unless a Ray cluster answers there. Ray itself waits for minutes, and then ends the process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None
    ask = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _unreachable(address, "what is there does not answer") from None
    if answer.returncode:
        raise _unreachable(address, (answer.stderr.strip().splitlines() or ["no answer"])[-1])


def _unreachable(address: str | None, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster at --ray-address {address}: {reason}; give host:port of one that runs (`ray start --head`), "
        "or leave it out"
    )
