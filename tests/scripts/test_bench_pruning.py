from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from latency_lut.backends.protocol import Measurement, Timing
from nas.pruning import latency
from scripts import bench_pruning
from scripts.bench_pruning import Difference
from scripts.pruning_peers import networks, times
from scripts.pruning_peers.child import Child, ChildFailed
from scripts.pruning_peers.methods import Task
from scripts.pruning_peers.times import bench_times
from search_spaces import UserError
from search_spaces.command.files import read_json_lines
from search_spaces.structure.families.attention import PrunableAttention
from search_spaces.structure.fvcore_macs import fvcore_macs
from tests.nas.tiny import make_images


def tiny(num_classes: int, patch_size: int = 16) -> nn.Module:
    shape: dict[str, Any] = {"img_size": 32, "patch_size": patch_size, "embed_dim": 24, "depth": 2, "num_heads": 4}
    return timm.create_model("deit_tiny_patch16_224", num_classes=num_classes, **shape)


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)
    monkeypatch.setattr(bench_pruning, "installed", lambda: False)
    images = make_images(tmp_path / "images")
    text = f"--data {images} --folder {tmp_path}/bench --networks tiny --epochs 2 --batch-size 8 --amp off --device cpu"
    return [*text.split(), "--images", "16", "--calibration-batch", "8", "--finetune-steps", "2"]


@pytest.mark.heavy
def test_every_method_prunes_one_checkpoint_to_the_same_macs(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*flags, "--seeds", "2", "--finetune-seeds", "1", "--scratch-seeds", "1"]
    bench_pruning.main(command)
    printed = capsys.readouterr().out
    assert "Torch-Pruning is not installed and left out (pip install torch-pruning==" in printed
    cells = read_json_lines(tmp_path / "bench/tiny/cells.jsonl")
    found = {(cell["stage"], cell["method"], cell["seed"]) for cell in cells}
    methods = ("taylor", "taylor-macs", "magnitude", "random")
    expected = {("cut", method, seed) for method in methods for seed in (0, 1)}
    expected |= {("tuned", method, 0) for method in (*methods, "scratch")}
    assert found == expected and len(cells) == len(expected)
    assert all(0.48 < cell["macs_share"] <= 0.5 and 0 <= cell["accuracy"] <= 1 for cell in cells)
    scratch = next(cell for cell in cells if cell["method"] == "scratch")
    assert scratch["epochs"] == 2 * 2, "half the MACs, twice as long"
    assert "before fine-tuning, taylor - random: " in printed

    monkeypatch.setattr(Task, "cut", lambda *_: pytest.fail("pruned again"))
    bench_pruning.main(command)
    assert read_json_lines(tmp_path / "bench/tiny/cells.jsonl") == cells


@pytest.mark.heavy
def test_at_equal_latency(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(models: dict[str, nn.Module], image_size: int, *_: Any) -> Measurement:
        image = torch.zeros(1, 3, image_size, image_size)
        times = {name: 1e-6 * fvcore_macs(model, image) + 0.01 for name, model in models.items()}
        return Measurement({name: Timing((ms,)) for name, ms in times.items()}, None, 0, 1.0)

    for module in (bench_pruning, latency):
        monkeypatch.setattr(module, "measure", measure)
    more = "--seeds 1 --finetune-seeds 0 --scratch-seeds 0 --latency-seeds 1 --latency 0.7"
    bench_pruning.main([*flags, *more.split(), "--methods", "taylor-macs", "taylor-latency"])
    assert "at equal latency, taylor-latency - taylor-macs: " in capsys.readouterr().out
    cells = [c for c in read_json_lines(tmp_path / "bench/tiny/cells.jsonl") if c["stage"] == "latency"]
    assert [cell["method"] for cell in cells] == ["taylor-macs", "taylor-latency"]
    assert all(0.68 < cell["latency_share"] <= 0.7 for cell in cells)


def test_what_torch_pruning_cannot_do_is_told(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise ChildFailed("not finished after 600 s")

    monkeypatch.setattr(bench_pruning, "installed", lambda: True)
    monkeypatch.setattr(Child, "call", fails)
    more = "--seeds 1 --finetune-seeds 0 --scratch-seeds 0 --methods torch-pruning taylor"
    bench_pruning.main([*flags, *more.split()])
    printed = capsys.readouterr().out
    assert "torch-pruning: not finished after 600 s" in printed
    failed, ours = read_json_lines(tmp_path / "bench/tiny/cells.jsonl")
    assert (failed["method"], ours["method"]) == ("torch-pruning", "taylor")
    (whole_q, q), (whole_v, v), (whole_ffn, ffn) = (ours["over_embedding"][kind] for kind in ("Q, K", "V", "FFN"))
    assert (whole_q, whole_v, whole_ffn) == (1, 1, 4), "of the whole network"
    assert q <= 1 and v <= 1 and ffn <= 4 and q + v + ffn < 6
    rows = [line.split() for line in printed.splitlines()]
    assert ["whole", "1.00", "1.00", "4.00"] in rows and ["taylor", f"{q:.2f}", f"{v:.2f}", f"{ffn:.2f}"] in rows


def test_both_networks_of_torch_pruning_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Replaying(Child):
        def call(self, function: Any, *args: Any) -> Any:
            calls.append(function)
            model: Any = tiny(10)
            for block in model.blocks:  # as it leaves them: half of each head
                attention = block.attn
                attention.qkv, attention.proj = nn.Linear(24, 36), nn.Linear(12, 24)
                attention.attn_dim, attention.head_dim = 12, 3
            return model

    torch.manual_seed(0)
    task = Task(tiny(10).eval(), 32, lambda _: [], "isomorphic", 1, Replaying(1.0))
    stock, scaled = (task.cut(method, 0, 1000) for method in ("torch-pruning", "torch-pruning-scaled"))
    assert len(calls) == 1
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), scaled.parameters(), strict=True))
    attention: Any = scaled.get_submodule("blocks.0.attn")
    assert isinstance(attention, PrunableAttention) and attention.scale == 6**-0.5
    images = 3 * torch.randn(4, 3, 32, 32)
    assert task.macs(stock) == task.macs(scaled)
    assert not torch.allclose(stock(images), scaled(images)), "the temperature counts"


def test_times_of_ours_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(10)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: model)
    monkeypatch.setattr(times, "PIXELS", {"any": 32})
    bench_times(None, "isomorphic", 0.5, ("any",), pairs=1, images=8)
    assert capsys.readouterr().out.splitlines()[-1].split()[-2:] == ["not", "installed"]


def test_differences_are_of_the_same_seed() -> None:
    assert str(Difference.of([0.01, 0.03])) == "+2.00 ± 1.00"
    assert str(Difference.of([-0.01])) == "-1.00 ± nan"


def test_unknown_names(flags: list[str]) -> None:
    with pytest.raises(UserError, match="--methods tailor is unknown; choose from taylor, "):
        bench_pruning.main([*flags, "--methods", "tailor"])
