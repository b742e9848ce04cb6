"""What every reader of tables is told: which table it is, what it says in short, and where a block is in a network."""

from __future__ import annotations

from pathlib import Path

from latency_lut.tables.placement import CPU, mean_shares, shares_text
from latency_lut.tables.table import LatencyTable
from search_spaces import BlockSpec


def heading(path: Path, table: LatencyTable) -> str:
    """Which table it is, and of what, in one line."""
    return f"{path}: {table.space} at {table.image_size} px, {table.provenance.runtime}"


def stage_of(block: BlockSpec) -> str:
    """The place of a block in the network, by the name of its weights; its kind where that names no stage."""
    return ".".join(block.name.split(".")[:2]) if "." in block.name else block.kind


def shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def summary(table: LatencyTable) -> str:
    """The table in a few lines."""
    source, calibration = table.provenance, table.calibration
    errors = [abs(n.predicted_ms / n.min_ms - 1) for n in calibration.networks]
    share = "unknown" if source.unclean_share is None else f"{source.unclean_share:.1%}"
    lines = [
        f"{table.space} at {table.image_size} px, {len(table.rows)} blocks as {table.form}",
        str(source.runtime),
        f"latency = {calibration.scale:.4f} x sum of blocks {calibration.offset_ms:+.4f} ms",
        f"off by {sum(errors) / len(errors):.1%} on average on the {len(errors)} calibration networks",
        f"disturbed samples {share}, drift of the anchor {source.anchor_drift:+.1%}",
    ]
    if placed := _placement(table):
        lines.append(placed)
    if table.clamped:
        lines.append(f"{len(table.clamped)} blocks cost too little to be told from 0: {', '.join(table.clamped)}")
    return "\n".join([*lines, *table.warnings])


def _placement(table: LatencyTable) -> str:
    """Which units run the networks, and their blocks; "" where the runtime does not tell, or has the CPU alone."""
    networks = table.calibration.networks
    own = mean_shares((network.devices, 1.0) for network in networks)
    expected = mean_shares((network.expected_devices, 1.0) for network in networks)
    if not (own.keys() | expected.keys()) - {CPU}:
        return ""
    return f"operators of the networks: {shares_text(own)}; of their blocks: {shares_text(expected)}"
