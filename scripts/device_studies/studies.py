"""What the studies share: networks timed together on the user's device, beside what a paper published of its own.

Absolute times belong to a device; a study compares ratios. All networks of a study are timed interleaved, batch 1, by
the protocol of the latency tables (`backends.protocol`), so none is favoured by the machine's state. An interrupted
study goes on when the same command is given again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from latency_lut.backends.base import Backend, DeviceGone, Job, Runtime, Session
from latency_lut.backends.protocol import ANCHOR, Measurement, Settings, Timing
from latency_lut.backends.registry import Target
from latency_lut.measurement.journal import Journal
from latency_lut.measurement.sessions import measure_sessions, now
from latency_lut.tables.anchor import anchor_job
from search_spaces import UserError
from search_spaces.command import align, flag
from search_spaces.command.files import slug, write_json

STUDIES = Path("runs") / "studies"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class StudyConfig(Target):
    samples: int = flag(40, "undisturbed samples of every network", minimum=2, maximum=10_000)
    resume: bool = flag(True, "go on with an interrupted study of the same settings")


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
    study: str,
    networks: Mapping[str, Network],
    backend: Backend,
    config: StudyConfig,
    command: str = "",
    conclude: Callable[[Rows], dict[str, Any]] = lambda _rows: {},
) -> tuple[dict[str, Any], Path]:
    """Times the networks, by name. What the runtime cannot run stays in the result, with the reason.

    Args:
        study: names the file, so it says all that tells this study from others on the same runtime.
        conclude: what the result holds besides the rows.

    Returns:
        JSON, and the file in runs/studies that holds it.

    Raises:
        UserError: the runtime does not run here, or runs none of the networks.
        DeviceGone: the device has been disconnected; what was measured is kept.
    """
    runtime, settings = backend.describe(), backend.settings(config.samples)
    out = STUDIES / f"{slug(study)}-{config.slug(backend)}.json"
    facts = {"study": study, "networks": {name: list(network.job.input_shape) for name, network in networks.items()}}
    with Journal.kept(out, config.resume, facts, backend, settings) as journal:
        rows, measured = _measure(networks, backend, settings, journal)
        result = {
            "study": study,
            "backend": backend.name,
            "runtime": asdict(runtime),
            "settings": asdict(settings),
            "unclean_share": measured.unclean_share,
            "busy": measured.busy,
            "date": now(),
            "command": command,
            "networks": rows,
            **conclude(rows),
        }
        write_json(out, result)
    return result, out


def _measure(
    networks: Mapping[str, Network], backend: Backend, settings: Settings, journal: Journal
) -> tuple[Rows, Measurement]:
    sessions, costs, errors = _prepare(networks, backend)
    measured = measure_sessions(sessions, backend, settings, journal)
    rows = []
    for name in networks:
        num_params, macs = costs.get(name, (None, None))
        row = {"name": name, "num_params": num_params, "macs": macs, **_times(name, networks, measured.timings)}
        row |= {"devices": sessions[name].devices if name in sessions else {}, "error": errors.get(name)}
        rows.append(row)
    return rows, measured


def _prepare(
    networks: Mapping[str, Network], backend: Backend
) -> tuple[dict[str, Session], dict[str, tuple[int, int]], dict[str, str]]:
    """Sessions of the networks and of the anchor, parameters and MACs, and why some networks have none."""
    sessions, costs, errors = {ANCHOR: backend.prepare(anchor_job())}, {}, {}
    for name, network in tqdm(networks.items(), desc="loading networks", disable=None, leave=False):
        try:
            costs[name] = count(network.job)
            sessions[name] = backend.prepare(network.job)
        except DeviceGone as error:
            raise DeviceGone(f"{name}: {error}") from error
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
    """Parameters and multiply-accumulates of convolutions and matrix products."""
    import torch

    from search_spaces.structure.fvcore_macs import fvcore_macs

    module = job.module().requires_grad_(False)
    num_params = sum(parameter.numel() for parameter in module.parameters())
    return num_params, fvcore_macs(module, torch.zeros(1, *job.input_shape))


def report(result: Mapping[str, Any], title: str, phone: str) -> str:
    """The result as a table. Ratios are of minima, each to its own baseline; the phone's are of what was published."""
    head = ("", "params M", "MACs M", "min ms", "median", "ratio", f"{phone} ms", "ratio", "")
    rows = [
        (
            row["name"],
            _cell(row["num_params"], 2, 1e6),
            _cell(row["macs"], 0, 1e6),
            _cell(row["min_ms"], 3),
            _cell(row["median_ms"], 3),
            _cell(row["ratio"], 2),
            _cell(row["paper_ms"], 2),
            _cell(row["paper_ratio"], 2),
            f"not run: {row['error']}" if row["error"] else "",
        )
        for row in result["networks"]
    ]
    lines = [title, str(Runtime(**result["runtime"])), align([head, *rows], "<>>>>>>><")]
    if result["busy"]:
        lines.append("WARNING: the machine was busy; run the study again when it is quiet")
    return "\n".join(lines)


def _cell(value: float | None, digits: int, unit: float = 1) -> str:
    return "–" if value is None else f"{value / unit:.{digits}f}"
