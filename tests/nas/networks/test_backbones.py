"""Backbones of a run: of what was retrained, of what was searched, of its supernet, of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas import api
from nas.networks.backbones import backbone_of, network_of
from nas.networks.inherit import load_supernet
from nas.runs.checkpoint import save_tensors
from search_spaces import UserError
from search_spaces.command.files import write_json
from tests.nas.synthetic_run import add_supernet, make_run, trained_like

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 32 px with a retrained winner, another that was only searched, and a supernet."""
    folder = tmp_path / "r"
    space = make_run(folder)
    network = trained_like(space, space.smallest)
    save_tensors(folder / "retrain/winner-1/model.safetensors", network.state_dict(), {"space": space.name})
    result = {"command": "", "arch": space.to_json(space.smallest), "init": "scratch", "minutes": 1.0}
    write_json(folder / "retrain/winner-1/result.json", {**result, "start_test_accuracy": 0.1, "test_accuracy": 0.9})
    found = [
        {"name": f"winner-{i}", "arch": space.to_json(a)} for i, a in enumerate((space.smallest, space.largest), 1)
    ]
    write_json(folder / "search/result.json", {"winners": found, "earlier_winners": []})
    return folder


def maps(network: Any, x: Tensor = IMAGE[..., :32, :32]) -> list[Tensor]:
    with torch.no_grad():
        found: list[Tensor] = network.eval().forward_intermediates(x, intermediates_only=True)
    return found


def test_a_retrained_winner_brings_its_weights(run: Path) -> None:
    backbone = backbone_of(run, "winner-1").eval()
    space = api.Run(run).info.search_space()
    expected = maps(trained_like(space, space.smallest))
    with torch.no_grad():
        for mine, theirs in zip(backbone(IMAGE[..., :32, :32]), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    alone = backbone_of(None, str(run / "retrain/winner-1"))
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), backbone.parameters(), strict=True))
    again = api.Run(run).backbone("winner-1", image_size=64)
    assert again.image_size == 64 and [m.shape[-1] for m in again.eval()(IMAGE)] == [32, 16, 8, 4]


def test_winners_of_before_are_found(run: Path) -> None:
    """A later search, or other limits, do not take their names away."""
    space = api.Run(run).info.search_space()
    names = ("search-2-winner-1", "search-2-winner-2")
    now, before = (
        {"name": name, "arch": space.to_json(arch)}
        for name, arch in zip(names, (space.largest, space.smallest), strict=True)
    )
    write_json(run / "search-2/result.json", {"winners": [now], "earlier_winners": [before]})
    found = [network_of(run, name, "scratch").arch for name in ("winner-2", *names)]
    assert found == [space.largest, space.largest, space.smallest]


def test_what_was_only_searched_inherits(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search_spaces import SPACES
    from tests.nas.tiny import tiny_space

    monkeypatch.setitem(SPACES, "tiny", tiny_space)
    folder = trained / "runs/r"
    supernet = load_supernet(folder, torch.device("cpu"))
    backbone = backbone_of(folder, "smallest", "inherit").eval()
    x = torch.randn(1, 3, 16, 16)
    expected = maps(supernet.extract(supernet.space.smallest), x)
    with torch.no_grad():
        for mine, theirs in zip(backbone(x), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_weights_from_a_file_are_those_of_the_network_that_they_are_of(run: Path) -> None:
    space = api.Run(run).info.search_space()
    state = trained_like(space, space.largest).state_dict()
    save_tensors(file := run.parent / "w.safetensors", state, {})
    backbone = backbone_of(run, "winner-2", str(file))
    assert torch.equal(backbone.blocks[0].state_dict()["conv1.conv.weight"], state["stem.conv1.conv.weight"])
    with pytest.raises(
        UserError, match=r"w.safetensors has the weights of largest, not of winner-1; take init inherit"
    ):
        backbone_of(run, "winner-1", str(file))


@pytest.mark.parametrize(
    ("winner", "init", "message"),
    [
        (
            "winner-9",
            None,
            r"has no network 'winner-9'; choose from winner-1, winner-2, smallest, largest, or give a JSON",
        ),
        ("winner-2", "trained", "has no retrained 'winner-2'; run nas.retrain, or take init inherit"),
        ("winner-2", None, r"has no supernet/result.json; make it with: python -m nas.train_supernet"),
        ("winner-1", "pretrained", "--init pretrained is for timm/NAME; of efficientformerv2-nano give a file of"),
        ("winner-1", "nowhere", "--init nowhere: there is no nowhere"),
    ],
)
def test_what_cannot_be_is_one_line(run: Path, winner: str, init: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        backbone_of(run, winner, init)
    assert "\n" not in str(error.value)


def test_a_folder_alone_has_no_supernet(run: Path) -> None:
    add_supernet(run)
    with pytest.raises(UserError, match=r"init inherit of .* needs the run whose supernet it is of; name it, or leave"):
        backbone_of(None, str(run / "retrain/winner-1"), "inherit")
    with pytest.raises(UserError, match="nowhere has no"):
        backbone_of(None, "nowhere")
