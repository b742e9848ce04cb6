"""MobileOne's Table 1a on your device: how well multiply-accumulates and parameters tell the order of latencies.

    python -m scripts.study_models                                          # ONNX Runtime, 1 thread: two minutes
    python -m scripts.study_models --models resnet18 mobilenetv2_100 efficientnet_b0 deit_tiny_patch16_224

Bare: the networks of the paper's Table 8 that timm and torchvision have, 22 of 26 (neither has MobileFormer-52 and -96
or MobileNeXt 1.0 and 1.4). Rank correlations are printed for all and without MobileOne's own five, since the p-values
of Table 1a fit 21 networks, as many as Table 8 has without those. But from Table 8's own columns these 21 give 0.45
with MACs and 0.40 with parameters on the iPhone (Table 1a: 0.47 and 0.30), 0.07 and 0.09 on the CPU (0.06 and 0.07), so
which networks are behind Table 1a is not certain. The four that cannot be built lower the correlation with MACs much:
beside the measured correlations stand those of the published latencies of the same networks, higher without the four.

As in the paper, re-parameterizable networks are timed in their inference form, MobileNetV3 with ReLU instead of
hard-swish, MobileViT at 256 px; multiply-accumulates are fvcore's.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

from latency_lut.backends.base import Job
from latency_lut.measurement.interpreter import delegate
from latency_lut.measurement.timm_models import PREFIX, check_name, timm_job
from scripts.device_studies.studies import Network, StudyConfig, report, run_study
from search_spaces import UserError
from search_spaces.command import align, flag, parse, run, spell

MODULE = "scripts.study_models"
TORCHVISION = "torchvision/"
MOBILEONE = "mobileone_"
METRICS = ("macs", "num_params")

# ms on an iPhone 12 and on an Intel Xeon Gold 5118: MobileOne, Table 8. The first is the baseline of the ratios.
PUBLISHED_MS = {
    "mobilenetv2_100": (0.98, 13.65),
    "mobilenetv2_140": (1.36, 15.67),
    "mobilenetv1_100": (0.95, 10.65),
    "mobilenetv3_small_100": (0.83, 10.38),
    "mobilenetv3_large_100": (1.09, 17.09),
    "semnasnet_100": (1.00, 24.06),  # MNASNet-A1
    "mixnet_s": (1.13, 40.09),
    "efficientnet_b0": (1.72, 28.71),
    "torchvision/shufflenet_v2_x1_0": (0.68, 16.60),
    "torchvision/shufflenet_v2_x2_0": (1.08, 20.85),
    "mobileone_s0": (0.79, 10.55),
    "mobileone_s1": (0.89, 13.04),
    "mobileone_s2": (1.18, 14.87),
    "mobileone_s3": (1.53, 16.47),
    "mobileone_s4": (1.86, 26.60),
    "mobilevit_xxs": (4.70, 23.03),
    "mobilevit_xs": (6.97, 27.21),
    "mobilevit_s": (9.21, 30.76),
    "deit_tiny_patch16_224": (4.78, 16.68),
    "pit_ti_224": (8.81, 16.37),
    "pit_xs_224": (14.37, 18.32),
    "convit_tiny": (10.99, 28.95),
}
# Spearman's rho and its p-value with MACs and with parameters: MobileOne, Table 1a.
TABLE_1A = {"iPhone 12": ((0.47, 0.03), (0.30, 0.18)), "Xeon": ((0.06, 0.80), (0.07, 0.77))}


@dataclass(frozen=True)
class ModelsConfig(StudyConfig):
    models: tuple[str, ...] = flag(
        (), f"timm's names, or {TORCHVISION}NAME, the baseline first (default: the paper's list)"
    )


def make_job(name: str) -> Job:
    """A network of timm (at its default size) or torchvision (at 224 px) as it is deployed.

    Raises:
        UserError: there is none of that name.
    """
    if not name.startswith(TORCHVISION):
        # The supplement, B: hard-swish is optimized on some platforms only, so the paper times ReLU in its place.
        options: dict[str, Any] = {"act_layer": "relu"} if name.startswith("mobilenetv3_") else {}
        return timm_job(name, **options)
    import torchvision

    name = name.removeprefix(TORCHVISION)
    check_name("torchvision", name, torchvision.models.list_models(module=torchvision.models))
    return Job((3, 224, 224), partial(torchvision.models.get_model, name, weights=None))


def networks(names: Sequence[str]) -> dict[str, Network]:
    """A row for each name."""
    return {name: Network(make_job(name), names[0], PUBLISHED_MS.get(name, (None,))[0]) for name in names}


def correlations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlations of latency with MACs and parameters: measured, all and without MobileOne, then published."""
    timed = [row for row in rows if row["min_ms"] is not None]
    published = [row for row in timed if row["name"] in PUBLISHED_MS]
    found = []
    for what, chosen, latency in (
        ("measured", timed, lambda row: row["min_ms"]),
        ("iPhone 12, Table 8", published, lambda row: PUBLISHED_MS[row["name"]][0]),
        ("Xeon, Table 8", published, lambda row: PUBLISHED_MS[row["name"]][1]),
    ):
        without = [row for row in chosen if not row["name"].startswith(MOBILEONE)]
        for label, some in ((what, chosen), (f"{what}, without MobileOne", without)):
            if len(some) >= 3 and (label == what or len(without) < len(chosen)):
                found.append(_correlate(label, some, latency))
    return found


def _correlate(
    label: str, rows: Sequence[Mapping[str, Any]], latency: Callable[[Mapping[str, Any]], float]
) -> dict[str, Any]:
    from scipy.stats import kendalltau, spearmanr

    times = [latency(row) for row in rows]
    found: dict[str, Any] = {"latency": label, "num_models": len(rows)}
    for metric in METRICS:
        spearman = spearmanr(times, [row[metric] for row in rows])
        kendall = kendalltau(times, [row[metric] for row in rows])
        values = {"spearman": spearman.statistic, "p_value": spearman.pvalue, "kendall": kendall.statistic}
        found[metric] = {name: float(value) if isfinite(value) else None for name, value in values.items()}
    return found


def correlation_report(found: Sequence[Mapping[str, Any]]) -> str:
    """The correlations as a table, the paper's Table 1a below them."""
    rows: list[tuple[str, ...]] = [("", "models", "Spearman (p), Kendall with MACs", "with parameters")]
    for row in found:
        cells = (_cell(row[m]["spearman"], row[m]["p_value"], row[m]["kendall"]) for m in METRICS)
        rows.append((row["latency"], str(row["num_models"]), *cells))
    for device, (macs, num_params) in TABLE_1A.items():
        rows.append((f"{device}, Table 1a", "–", _cell(*macs, None), _cell(*num_params, None)))
    return align(rows, "<><<")


def _cell(spearman: float | None, p_value: float | None, kendall: float | None) -> str:
    if spearman is None or p_value is None:
        return "– (all equal)"
    return f"{spearman:5.2f} ({p_value:.2g})" + (f", {kendall:.2f}" if kendall is not None else "")


def _study(names: Sequence[str]) -> str:
    """Another name for each list of networks."""
    if tuple(names) == tuple(PUBLISHED_MS):
        return "models"
    return f"models-{len(names)}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:6]}"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    config = parse(ModelsConfig, argv, f"python -m {MODULE}", "Latency against MACs and parameters (MobileOne).")
    if delegate(config.python, MODULE, argv):
        return
    names = tuple(dict.fromkeys(name.removeprefix(PREFIX) for name in config.models)) or tuple(PUBLISHED_MS)
    if len(names) < 3:
        raise UserError(f"--models has {len(names)} networks; give at least 3, fewer have no rank correlation")
    result, out = run_study(
        _study(names),
        networks(names),
        config.make_backend(),
        config,
        spell(MODULE, config),
        lambda rows: {"correlations": correlations(rows)},
    )
    print(report(result, f"{len(names)} networks; ratios to {names[0]}", "iPhone 12"))
    print(correlation_report(result["correlations"]))
    print(out)


if __name__ == "__main__":
    run(main)
