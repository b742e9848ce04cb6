"""Time of importance and pruning to half the MACs, of published networks with random weights."""

from __future__ import annotations

import statistics
import time

import timm
import torch

from nas.pruning.rounds import CPU_MACS
from nas.pruning.selection import Scope
from scripts.pruning_peers.child import Child, ChildFailed
from scripts.pruning_peers.methods import prune_once
from scripts.pruning_peers.torch_pruning_peer import taylor_once
from search_spaces.structure.fvcore_macs import fvcore_macs

NETWORKS = (
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "efficientformerv2_s0",
    "mobileone_s0",
    "mobilevit_xxs",
    "mobilevit_s",
    "efficientvit_m0",
)
PIXELS = {"mobilevit_xxs": 256, "mobilevit_s": 256}
MAX_RATIO, MAX_SECONDS = 1.5, 30.0


def bench_times(
    peer: Child | None, scope: Scope, share: float, names: tuple[str, ...] = NETWORKS, pairs: int = 2, images: int = 0
) -> None:
    """Prints a line for each network: seconds of ours, and the ratio to Torch-Pruning's of interleaved pairs.

    Ratios and bars are of the processes' CPU time, which other work does not lengthen.

    Args:
        images: for calibration; 0: as many as nas.prune takes.
    """
    print(f"{torch.get_num_threads()} threads, Taylor, {scope}, {share:g} of the MACs")
    print(f"{'network':30} {'images':>6} {'seconds':>8} {'CPU s':>7} {'ours / Torch-Pruning':>21}")
    for name in names:
        pixels = PIXELS.get(name, 224)
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10).eval()
        macs = fvcore_macs(model, torch.zeros(1, 3, pixels, pixels))
        count = images or max(16, min(1024, int(CPU_MACS / macs)))
        size = max(1, min(8, count // 8))
        batches = [
            (torch.randn(size, 3, pixels, pixels), torch.randint(0, 10, (size,))) for _ in range(max(1, count // size))
        ]
        seconds, cpu_seconds, ratios, failure = [], [], [], "" if peer else "not installed"
        for _ in range(pairs):
            before = time.perf_counter(), time.process_time()
            prune_once(model, batches, pixels, share, scope)
            seconds.append(time.perf_counter() - before[0])
            cpu_seconds.append(time.process_time() - before[1])
            if peer is not None and not failure:
                try:
                    # half of the MACs: both sides of most layers shrink
                    theirs = peer.call(taylor_once, model, batches, pixels, 1 - share**0.5, scope)
                    ratios.append(cpu_seconds[-1] / theirs)
                except ChildFailed as error:
                    failure = str(error)
        late = "  MISSED" if min(cpu_seconds) / torch.get_num_threads() > MAX_SECONDS else ""
        ratio = f"{statistics.median(ratios):.2f}" if ratios else failure
        slow = "  MISSED" if ratios and statistics.median(ratios) > MAX_RATIO else ""
        print(f"{name:30} {count:6} {min(seconds):8.1f} {min(cpu_seconds):7.1f}{late} {ratio:>21}{slow}", flush=True)
