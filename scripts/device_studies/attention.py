"""EfficientViT's Figures 1 to 4 on your device: which operators take the time of networks with less attention.

    python -m scripts.device_studies.attention     # DeiT-T and Swin-T, three runtimes, 1 thread
    python -m scripts.device_studies.attention --models deit_tiny_patch16_224 --backends onnxruntime

Networks of the layers of DeiT-T and Swin-T, 20, 40 and 60 % of them attention, that are 1.25 and 1.5 times as fast
(Liu et al., CVPR 2023, Section 2.1 and supplement, A; half of the layers are attention in the networks themselves).
How the paper's are made it does not say; ours have the layers' own widths, as many layers as the time allows, and both
kinds spread evenly. The page has a bar for each network, its operators by kind, memory-bound ones in red
(`latency_lut.backends.operator_kinds` says which). "It is observed that under a similar inference throughput, the
subnetworks with smaller proportions of MHSA layers tend to have less time consumption on memory-bound operations."
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_lut.backends.base import Backend, Job, require
from latency_lut.backends.operator_kinds import KINDS, MEMORY_BOUND
from latency_lut.backends.registry import make_backend
from latency_lut.profiling.profile import profile_networks
from latency_lut.profiling.report import Network, Profile, Report, to_json
from scripts.device_studies.studies import STUDIES
from search_spaces import UserError
from search_spaces.command import Flags, align, flag, parse, run
from search_spaces.command.files import write_json, write_text
from search_spaces.command.page import embed, figure, html, page, table, warning

if TYPE_CHECKING:
    from torch import nn

MODULE = "scripts.device_studies.attention"
IMAGE_SIZE = 224
SPEED_UPS, SHARES = (1.25, 1.5), (0.2, 0.4, 0.6)
REDS, BLUES = (
    ("#7f1d1d", "#b91c1c", "#ef4444", "#f87171", "#fecaca"),
    ("#1e3a8a", "#2563eb", "#60a5fa", "#93c5fd", "#64748b", "#cbd5e1"),
)
BAR_HEIGHT = 34  # pixels
BUSY = "WARNING: the machine was busy; run the study again when it is quiet"


@dataclass(frozen=True)
class Config(Flags):
    models: tuple[str, ...] = flag(
        ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"), "ViTs or Swins of timm, of 224 px"
    )
    backends: tuple[str, ...] = flag(("onnxruntime", "torch", "openvino"), "runtimes; those not installed are left out")
    threads: int = flag(1, "threads that run one network", minimum=1, maximum=1024)
    repeats: int = flag(30, "profiled runs, and undisturbed samples without profiling", minimum=2, maximum=1000)
    out: str = flag(str(STUDIES / "attention.html"), "page; the JSON is written beside it")


@dataclass(frozen=True)
class Mix:
    """So many layers of each kind."""

    attention: int
    ffn: int

    @property
    def share(self) -> float:
        return self.attention / (self.attention + self.ffn)


@dataclass(frozen=True)
class Times:
    """A line through the times of a network's mixes, ms."""

    rest: float
    attention: float
    ffn: float

    @classmethod
    def of(cls, depth: int, whole: float, without_attention: float, without_ffn: float) -> Times:
        """From a network of so many blocks, and it without one or the other half of each."""
        attention, ffn = (whole - without_attention) / depth, (whole - without_ffn) / depth
        return cls(whole - depth * (attention + ffn), attention, ffn)

    def at(self, mix: Mix) -> float:
        return self.rest + mix.attention * self.attention + mix.ffn * self.ffn

    def nearest(self, share: float, ms: float, depth: int) -> Mix:
        """The mix whose share of attention and time are nearest, of the worse of both errors."""
        mixes = [Mix(a, f) for a in range(1, 3 * depth) for f in range(1, 3 * depth)]
        return min(mixes, key=lambda mix: (max(abs(mix.share - share), abs(self.at(mix) / ms - 1)), mix.ffn))


def _build(name: str, attention: tuple[int, ...], ffn: tuple[int, ...]) -> nn.Module:
    from scripts.device_studies.mixes import mixed

    return mixed(name, attention, ffn)


def network(name: str, label: str, mix: Mix) -> Network:
    """timm's network of that name with other numbers of layers."""
    from scripts.device_studies.mixes import depths, shared_out

    stages = depths(name)
    counts = shared_out(mix.attention, stages), shared_out(mix.ffn, stages)
    return Network(label, Job((3, IMAGE_SIZE, IMAGE_SIZE), partial(_build, name, *counts)))


def study(name: str, backend: Backend, repeats: int) -> tuple[Report, list[Mix]]:
    """Profiles of the network and of its mixes, and these."""
    from scripts.device_studies.mixes import depths

    depth = sum(depths(name))
    ends = [Mix(depth, depth), Mix(0, depth), Mix(depth, 0)]
    probes = [network(name, f"{mix.attention} + {mix.ffn}", mix) for mix in ends]
    (whole, *halves), busy = profile_networks(probes, backend, repeats)
    times = Times.of(depth, whole.network_ms, *(half.network_ms for half in halves))
    mixes, chosen = [ends[0]], []
    for speed_up in SPEED_UPS:
        for share in SHARES:
            mixes.append(mix := times.nearest(share, whole.network_ms / speed_up, depth))
            chosen.append(network(name, f"{speed_up:g}x, {share:.0%} MHSA", mix))
    profiles, also_busy = profile_networks(chosen, backend, repeats)
    title = f"{name}, {backend.name}"
    return Report(title, backend.name, backend.describe(), busy or also_busy, (whole, *profiles)), mixes


HEAD = ("", "MHSA", "FFN", "MHSA's share", "ms", "faster", "memory-bound ms", "its share")


def rows(report: Report, mixes: Sequence[Mix]) -> list[tuple[str, ...]]:
    """One for each network, under `HEAD`."""
    whole, found = report.profiles[0], list[tuple[str, ...]]()
    for profile, mix in zip(report.profiles, mixes, strict=True):
        memory = profile.memory_bound
        speed = f"{whole.network_ms / profile.network_ms:.2f}"
        layers = f"{mix.attention}", f"{mix.ffn}", f"{mix.share:.0%}"
        memory_cells = f"{memory.corrected_ms:.3f}", f"{memory.corrected_share:.1%}"
        found.append((label(report, profile), *layers, f"{profile.network_ms:.3f}", speed, *memory_cells))
    return found


def label(report: Report, profile: Profile) -> str:
    return "whole" if profile is report.profiles[0] else profile.network.name


def text(report: Report, mixes: Sequence[Mix]) -> str:
    lines = [report.title, str(report.runtime), align([HEAD, *rows(report, mixes)], "<>>>>>>>"), *_verdicts(report)]
    return "\n".join([*lines, *([BUSY] if report.busy else [])])


def _verdicts(report: Report) -> list[str]:
    """What the paper observes, of the networks that are equally fast."""
    lines = []
    for i, speed_up in enumerate(SPEED_UPS):
        first = 1 + i * len(SHARES)
        some = [profile.memory_bound.corrected_ms for profile in report.profiles[first : first + len(SHARES)]]
        rising = all(a < b for a, b in pairwise(some))
        found = "the less attention, the less" if rising else "not: the less attention, the less"
        lines.append(f"{speed_up:g}x as fast, time in memory-bound operators: {found}")
    return lines


def bars(report: Report) -> Any:
    """A bar for each network, of its operators by kind, memory-bound ones in red and last."""
    import plotly.graph_objects as go

    kinds = sorted(KINDS, key=lambda kind: kind in MEMORY_BOUND)
    colors = dict(zip(kinds, (*BLUES, *REDS), strict=True))
    names = [label(report, profile) for profile in report.profiles]
    traces = []
    for kind in kinds:
        times = [_ms(profile, kind) for profile in report.profiles]
        if any(times):
            name = f"{kind} (memory-bound)" if kind in MEMORY_BOUND else kind
            marker, hover = {"color": colors[kind]}, f"{name}<br>%{{y}}: %{{x:.3f}} ms<extra></extra>"
            traces.append(go.Bar(name=name, orientation="h", x=times, y=names, marker=marker, hovertemplate=hover))
    plot = figure(traces, "ms in one run", barmode="stack", bargap=0.3, height=BAR_HEIGHT * len(names) + 150)
    return plot.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False)


def _ms(profile: Profile, kind: str) -> float:
    return sum(row.corrected_ms for row in profile.kinds if row.kind == kind)


def document(studies: Sequence[tuple[Report, list[Mix]]]) -> str:
    """The whole page."""
    parts = [html("<h1>Where the time of vision transformers with less attention goes</h1>\n")]
    for i, (report, mixes) in enumerate(studies):
        parts.append(html("<h2>{}</h2>\n", report.title))
        parts.append(embed(f"bars{i}", bars(report)))
        parts.append(html('<p class="soft">{}</p>\n', report.runtime))
        parts.append(table(HEAD, rows(report, mixes)))
        parts += [html("<p>{}</p>\n", verdict) for verdict in _verdicts(report)]
        parts += [warning(BUSY)] if report.busy else []
    parts.append(html('<p class="soft">MHSA: attention; FFN: the layers between.</p>\n'))
    return page("Attention and memory-bound operators", parts)


def backends(config: Config) -> list[Backend]:
    """Those that run here; a line for each that does not.

    Raises:
        UserError: none does.
    """
    found = []
    for name in config.backends:
        backend = make_backend(name, threads=config.threads)
        try:
            backend.describe()
        except UserError as error:
            print(f"without {name}: {error}")
        else:
            found.append(backend)
    if not found:
        raise UserError(f"none of --backends {' '.join(config.backends)} runs here; install one")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(Config, argv, f"python -m {MODULE}", "Where the time of networks with less attention goes.")
    require("plotly", "pip install plotly")
    out = Path(config.out)
    if out.suffix != ".html":
        raise UserError(f"--out is {out}; give a file that ends in .html")
    studies = []
    for name in config.models:
        for backend in backends(config):
            studies.append(study(name, backend, config.repeats))
            print(f"{text(*studies[-1])}\n")
    write_json(out.with_suffix(".json"), {"studies": [to_json(report) for report, _ in studies]})
    write_text(out, document(studies))
    print(out)


if __name__ == "__main__":
    run(main)
