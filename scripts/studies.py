"""What the studies share: networks timed together on the user's device, beside what a paper published of its own.

Absolute times belong to a device; a study compares ratios. All networks of a study are timed interleaved, batch 1, by
the protocol of the latency tables (`latency_lut.protocol`), so none is favoured by the machine's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from latency_lut.backend import Backend, Job, Runtime, Session, blocks_job
from latency_lut.backends import Target
from latency_lut.build import now
from latency_lut.measuring import measure_sessions
from latency_lut.plan import ANCHOR_BLOCKS
from latency_lut.protocol import ANCHOR, Timing
from search_spaces import UserError
from search_spaces.command import flag
from search_spaces.files import slug, write_json

STUDIES = Path("runs") / "studies"


@dataclass(frozen=True)
class StudyConfig(Target):
    samples: int = flag(40, "undisturbed samples of every network", minimum=2, maximum=10_000)


@dataclass(frozen=True)
class Network:
    """A row of a study.

    Args:
        baseline: name of the row whose time is 1.
        paper_ms: on the paper's phone; None where the paper has no such row.
    """

    job: Job
    baseline: str
    paper_ms: float | None = None


def run_study(
    study: str, networks: Mapping[str, Network], backend: Backend, samples: int, command: str = ""
) -> dict[str, Any]:
    """Times the networks, by name. What the runtime cannot run stays in the result, with the reason.

    Returns:
        JSON.

    Raises:
        UserError: the runtime does not run here, or runs none of the networks.
    """
    runtime, settings = backend.describe(), backend.settings(samples)
    sessions, costs, errors = _prepare(networks, backend)
    measured = measure_sessions(sessions, backend, settings)
    rows = []
    for name in networks:
        num_params, macs = costs.get(name, (None, None))
        row = {"name": name, "num_params": num_params, "macs": macs, **_times(name, networks, measured.timings)}
        row |= {"devices": sessions[name].devices if name in sessions else {}, "error": errors.get(name)}
        rows.append(row)
    return {
        "study": study,
        "backend": backend.name,
        "runtime": asdict(runtime),
        "settings": asdict(settings),
        "unclean_share": measured.unclean_share,
        "busy": measured.busy,
        "date": now(),
        "command": command,
        "networks": rows,
    }


def _prepare(
    networks: Mapping[str, Network], backend: Backend
) -> tuple[dict[str, Session], dict[str, tuple[int, int]], dict[str, str]]:
    """Sessions of the networks and of the anchor, parameters and MACs, and why some networks have none."""
    sessions, costs, errors = {ANCHOR: backend.prepare(blocks_job(ANCHOR_BLOCKS))}, {}, {}
    for name, network in tqdm(networks.items(), desc="loading networks", disable=None, leave=False):
        try:
            costs[name] = count(network.job)
            sessions[name] = backend.prepare(network.job)
        except Exception as error:  # what exporters and runtimes raise has no common base class
            errors[name] = next(iter(str(error).splitlines()), "") or type(error).__name__
    if len(errors) == len(networks):
        raise UserError(f"{backend.name} runs none of the networks: {next(iter(errors.values()))}")
    return sessions, costs, errors


def _times(name: str, networks: Mapping[str, Network], timings: Mapping[str, Timing]) -> dict[str, Any]:
    """What was measured of a network and what the paper has; ratios to its baseline, of minima."""
    network = networks[name]
    own, base = timings.get(name), timings.get(network.baseline)
    base_ms = networks[network.baseline].paper_ms
    return {
        "min_ms": own and own.min_ms,
        "median_ms": own and own.median_ms,
        "baseline": network.baseline,
        "ratio": own.min_ms / base.min_ms if own and base else None,
        "paper_ms": network.paper_ms,
        "paper_ratio": network.paper_ms / base_ms if network.paper_ms and base_ms else None,
    }


def count(job: Job) -> tuple[int, int]:
    """Parameters and multiply-accumulates of convolutions and matrix products, the same as fvcore counts."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module = job.module().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *job.input_shape))
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2


def save(result: Mapping[str, Any]) -> Path:
    """Writes the result as JSON to runs/studies, under a name that says what was studied and on what."""
    runtime = result["runtime"]
    parts = [result["study"], result["backend"], runtime["precision"]]
    parts += [f"{runtime['threads']}t"] if runtime["threads"] else [runtime["compute_unit"], runtime["device"]]
    path = STUDIES / f"{slug('-'.join(parts))}.json"
    write_json(path, result)
    return path


def report(result: Mapping[str, Any], title: str, phone: str) -> str:
    """The result as a table. Ratios are of minima, each to its own baseline; the phone's are of what was published."""
    rows = result["networks"]
    width = max(len(row["name"]) for row in rows)
    heads = [
        f"{'params M':>9} {'MACs M':>8} {'min ms':>9} {'median':>9} {'ratio':>7}",
        f"{phone + ' ms':>13} {'ratio':>7}",
    ]
    lines = [title, str(Runtime(**result["runtime"])), " ".join([" " * width, *heads])]
    for row in rows:
        cells = [_cell(row["num_params"], 9, 2, 1e6), _cell(row["macs"], 8, 0, 1e6)]
        cells += [_cell(row["min_ms"], 9, 3), _cell(row["median_ms"], 9, 3), _cell(row["ratio"], 7, 2)]
        cells += [_cell(row["paper_ms"], 13, 2), _cell(row["paper_ratio"], 7, 2)]
        why = [f" not run: {row['error']}"] if row["error"] else []
        lines.append(" ".join([f"{row['name']:{width}}", *cells, *why]))
    if result["busy"]:
        lines.append("WARNING: the machine was busy; run the study again when it is quiet")
    return "\n".join(lines)


def _cell(value: float | None, width: int, digits: int, unit: float = 1) -> str:
    return f"{'–' if value is None else f'{value / unit:.{digits}f}':>{width}}"
