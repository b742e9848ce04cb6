"""EfficientViT's Table 3: rows and what is printed, from times that are known."""

from __future__ import annotations

from latency_lut.backends.protocol import Measurement, Timing
from scripts.device_studies import throughput


def test_ratios_are_to_the_first_runtime() -> None:
    times_ms = {"efficientvit_m0 torch": 10.0, "efficientvit_m0 tvm": 5.0, "other torch": 4.0, "other tvm": 8.0}
    timings = {name: Timing((ms, 2 * ms)) for name, ms in times_ms.items()}
    measured = Measurement(timings, unclean_share=None, short=0, anchor_spread=1.0)
    m0, other = throughput.rows(["efficientvit_m0", "other"], ["torch", "tvm"], measured)
    assert m0["images_per_s"] == {"torch": 100, "tvm": 200}
    assert (m0["ratio"]["tvm"], other["ratio"]["tvm"]) == (2, 0.5)
    _head, first, second = throughput.report([m0, other]).splitlines()
    assert "200.0 (2.00)" in first and "366.8 (1.61)" in first
    assert second.split()[-2:] == ["–", "–"]
