"""Mixed precision of training: which one, and what it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """
    Args:
        amp: bf16, fp16 or off.
    """
    return torch.autocast(device.type, DTYPES.get(amp, torch.bfloat16), enabled=amp in DTYPES)


def check_amp(amp: str, device: torch.device) -> None:
    """UserError if the device cannot train with this precision."""
    if amp == "fp16" and device.type != "cuda":
        raise UserError(f"--amp fp16 needs CUDA, and --device is {device.type}; give --amp bf16, off or auto")


def pick_amp(amp: str, model: nn.Module, step: Callable[[], Tensor], device: torch.device) -> str:
    """bf16, fp16 or off.

    `auto` is, on CUDA, bf16 where the device has it and else fp16; on a CPU that has instructions for it, bf16 if it is
    faster: training steps are timed both ways, interleaved.

    Args:
        step: a training step without the optimizer's; leaves no trace in the model.
    """
    if amp != "auto":
        return amp
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if not _computes_bf16():
        return "off"
    seconds: dict[str, list[float]] = {"off": [], "bf16": []}
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    try:
        for _ in range(3):
            for choice, times in seconds.items():
                start = time.perf_counter()
                with autocast(choice, device):
                    step()
                times.append(time.perf_counter() - start)
            if min(seconds["bf16"]) > 1.5 * min(seconds["off"]):
                break
    finally:  # also if the loss is not finite
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, tensor in model.named_buffers():
                tensor.copy_(buffers[name])
    return "bf16" if min(seconds["bf16"]) < min(seconds["off"]) else "off"


def _computes_bf16() -> bool:
    """Whether the CPU may have instructions for it: without, a step takes ten times as long, and a trial too."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer torch has it
    return known.get("architecture") != "x86_64" or any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))
