"""Which device a process computes on."""

from __future__ import annotations

import torch

from nas.distributed import process
from search_spaces import UserError


def pick_device(name: str) -> torch.device:
    """The device of that name; of several processes, each takes its own GPU.

    Raises:
        UserError: there is no such device, or it is one for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    several = process.world_size() > 1 and name.startswith("cuda")
    if several and name != "cuda":
        raise UserError(f"--device {name} is one GPU for {process.world_size()} processes; give --device cuda")
    try:
        device = torch.device("cuda", process.local_rank()) if several else torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # NCCL's, and that of the thread that pins memory
    return device
