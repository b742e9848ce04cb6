"""Invented figures of a search's winners and their baselines."""

from __future__ import annotations

from nas.runs.baselines import Accuracy, Baselines, Difference, Kind, Network, pairs

NOISE = 0.01  # half an interval


def network(name: str, kind: Kind, winner: str, accuracy: float, latency_ms: float) -> Network:
    """Timed in two sessions, 1 % apart."""
    interval = Accuracy(accuracy, accuracy - NOISE, accuracy + NOISE)
    folder = f"{'prune' if kind == 'pruned' else 'retrain'}/{name}"
    sessions_ms = (latency_ms, 1.01 * latency_ms)
    return Network(name, kind, winner, folder, interval, sessions_ms, 2_000_000, 30_000_000, 100 / latency_ms)


WHOLE = network("whole", "whole", "", 0.80, 2.0)
WINNER = network("winner-1", "winner", "winner-1", 0.80, 1.0)
NARROWED = network("narrowed-winner-1", "narrowed", "winner-1", 0.78, 1.0)
PRUNED = network("as-fast-as-winner-1", "pruned", "winner-1", 0.795, 1.0)


def baselines(
    *networks: Network,
    max_loss: float = 0.0,
    broken_limits: tuple[str, ...] = (),
    missing: dict[str, str] | None = None,
) -> Baselines:
    """Two of them are told apart where their accuracies differ by more than the noise."""
    networks = networks or (WHOLE, WINNER, NARROWED, PRUNED)
    differences = [(one.name, other.name, one.accuracy.value - other.accuracy.value) for one, other in pairs(networks)]
    return Baselines(
        command="python -m nas.baselines",
        search="search",
        metric="latency_ms",
        num_images=1000,
        max_loss=max_loss,
        broken_limits=broken_limits,
        runtime="ONNX Runtime 1.31, float32, cpu, 1 thread, Some CPU",
        warnings=(),
        networks=networks,
        differences=tuple(Difference(one, other, d, d - NOISE, d + NOISE) for one, other, d in differences),
        missing=missing or {},
    )
