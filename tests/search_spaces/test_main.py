from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from search_spaces import SPACES, UserError, get_space, macs, num_params
from search_spaces.__main__ import main


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    main(argv)
    return capsys.readouterr().out


def test_lists_all_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    for name in SPACES:
        assert printed(capsys, name).strip() in text
    power = len(str(get_space("efficientformerv2").size())) - 1
    for part in (f"efficientformerv2: 10^{power}.", "{72, 96, 120, 144, 168, 192}", "s0", "3.60", "395.89"):
        assert part in text


def test_describes_one_space_for_given_images(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "efficientformerv2-nano", "--image-size", "64", "--num-classes", "7")
    assert "efficientformerv2-nano: " in text
    assert "64 px and 7 classes" in text
    assert "efficientformerv2: " not in text


def test_block_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "efficientformerv2", "--arch", "s0").splitlines()
    figures = [[int(cell.replace(",", "")) for cell in line.split()[-2:]] for line in lines[1:]]
    *blocks, totals = figures
    assert [sum(column) for column in zip(*blocks, strict=True)] == totals
    space = get_space("efficientformerv2")
    arch = space.published["s0"]
    assert totals == [num_params(space, arch), macs(space, arch)]
    assert len(blocks) == len(space.lower(arch))
    for part in ("3x224x224", "expansion 3", "stride 2", "attention_downsample"):
        assert any(part in line for line in lines)


def test_json_has_exactly_the_costs_and_the_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(printed(capsys, "efficientformerv2", "--arch", "s1", "--json"))
    assert list(data) == ["num_params", "macs", "blocks"]
    for cost in ("num_params", "macs"):
        assert sum(block[cost] for block in data["blocks"]) == data[cost]
    assert data["blocks"][0]["input_shape"] == [3, 224, 224]
    assert set(data["blocks"][0]) == {"name", "kind", "key", "input_shape", "output_shape", "num_params", "macs"}


def test_a_printed_arch_can_be_given_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(printed(capsys, "efficientformerv2", "--arch", "s2", "--print-arch"))
    by_file = printed(capsys, "efficientformerv2", "--arch", str(file), "--json")
    assert by_file == printed(capsys, "efficientformerv2", "--arch", "s2", "--json")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("resnet", "no space 'resnet'; choose from efficientformerv2, efficientformerv2-nano"),
        ("--arch s0", "--arch is of a space; name it before, one of efficientformerv2, efficientformerv2-nano"),
        ("--json", "--json and --print-arch show one network; name it with --arch"),
        ("efficientformerv2 --arch s0 --json --print-arch", "--json and --print-arch each print one JSON object"),
        ("efficientformerv2 --image-size 225", "image size 225 does not fit efficientformerv2"),
        ("efficientformerv2-nano --arch s0", "cannot read s0: No such file or directory; give a JSON file or one of"),
        (f"efficientformerv2 --arch {'x' * 300}", "File name too long; give a JSON file or one of smallest, s0"),
    ],
)
def test_mistakes_are_named(argv: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        main(argv.split())
    assert message in str(caught.value)


def test_a_bad_arch_file_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text('{"space": "efficientformerv2"')
    command = [sys.executable, "-m", "search_spaces", "efficientformerv2", "--arch", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {file} is not JSON: ")
    assert done.stderr.count("\n") == 1
