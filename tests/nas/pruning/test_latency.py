"""Finding a network of a given latency, on invented clocks."""

from __future__ import annotations

import pytest

from nas.pruning.latency import MAX_TRIALS, _stage, reach


@pytest.mark.parametrize("overhead", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("curve", [0.5, 1.0, 2.0])
def test_the_share_of_macs_that_takes_that_time_is_found(overhead: float, curve: float) -> None:
    def measured(macs_share: float) -> float:
        return overhead + (1 - overhead) * macs_share**curve

    share, trials = reach(0.7, measured, 0.001)
    assert 0.95 * 0.7 <= measured(share) <= 0.7
    assert len(trials) <= MAX_TRIALS


def test_what_is_never_fast_enough_shows_in_the_first_trial() -> None:
    share, trials = reach(0.3, lambda share: 0.4 + 0.6 * share, 0.01)
    assert share == 0.01 and trials[0].latency_share == pytest.approx(0.406)


def test_noise_ends_the_search_with_a_network_fast_enough() -> None:
    seen: list[float] = []

    def measured(_: float) -> float:
        seen.append(0.4 if len(seen) % 2 == 0 else 0.9)
        return seen[-1]

    share, trials = reach(0.6, measured, 0.01)
    assert len(trials) == len(seen) <= MAX_TRIALS
    assert share == max(trial.macs_share for trial in trials if trial.latency_share <= 0.6) > 0.01


def test_operators_belong_to_stages() -> None:
    assert _stage("/blocks/blocks.11/attn/qkv/MatMul") == "blocks.11"
    assert _stage("/layers/layers.2/blocks/blocks.1/mlp/fc1/Gemm") == "layers.2"
    assert _stage("/patch_embed/proj/Conv") == "patch_embed"
    assert _stage("/Concat") == _stage("Reorder_token_4") == "other"
