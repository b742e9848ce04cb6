"""Finding a network of a given latency, on invented clocks."""

from __future__ import annotations

import random

import pytest

from nas.pruning.latency import MAX_TRIALS, NEAR, Trial, _stage, reach


@pytest.mark.parametrize("overhead", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("curve", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_the_share_of_macs_that_takes_that_time_is_found(overhead: float, curve: float) -> None:
    def measured(macs_share: float) -> float:
        return overhead + (1 - overhead) * macs_share**curve

    share, trials = reach(0.7, measured, 0.001)
    assert 0.95 * 0.7 <= measured(share) <= 0.7
    assert len(trials) <= MAX_TRIALS


def test_what_is_never_fast_enough_shows_in_the_first_trial() -> None:
    share, trials = reach(0.3, lambda share: 0.4 + 0.6 * share, 0.01)
    assert share == 0.01 and trials[0].latency_share == pytest.approx(0.406)


@pytest.mark.parametrize("seed", range(20))
def test_of_times_that_do_not_grow_with_macs_the_nearest_from_below_is_taken(seed: int) -> None:
    rng, wanted = random.Random(seed), 0.6
    seen: list[Trial] = []

    def measured(macs_share: float) -> float:
        latency_share = max(0.01, 0.3 + 0.7 * macs_share + rng.uniform(-0.25, 0.25))
        seen.append(Trial(macs_share, latency_share))
        return latency_share

    share, trials = reach(wanted, measured, 0.01)
    assert trials == seen and len(trials) <= MAX_TRIALS
    fast = [trial.latency_share for trial in trials if trial.latency_share <= wanted]
    found = next(trial.latency_share for trial in trials if trial.macs_share == share)
    assert found == max(fast)
    assert found >= (1 - NEAR) * wanted or len(trials) == MAX_TRIALS, "it goes on"


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
