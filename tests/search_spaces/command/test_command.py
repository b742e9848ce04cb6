from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from search_spaces.command import Flags, UserError, amend, fill, flag, flags_given, given, parse, settings, spell


@dataclass(frozen=True)
class Config(Flags):
    model: str | None = flag(None, "which", positional=True)
    epochs: int = flag(3, "how many", minimum=1, maximum=100)
    alpha: float = flag(1.0, "100 % sure", above=0, below=10)
    init: Literal["inherit", "scratch"] = flag("inherit", "weights to start from")
    threads: Literal[1, 2] = flag(1, "of the device")
    amp: bool | None = flag(None, "bf16")
    resume: bool = flag(False, "go on")
    limits: tuple[float, ...] = flag((), "several", above=0)
    max_params: float | None = flag(None, "no bound if not given", above=0)
    formats: tuple[Literal["a", "b"], ...] = flag((), "to write")
    tables: tuple[str, ...] = flag((), "a number, or a name and one")


NO_TEXT = "which is not UTF-8 or has control characters; rename what it names"


def parsed(*argv: str) -> Config:
    return parse(Config, argv, "prog", "What it does.")


def test_no_flag_gives_the_defaults() -> None:
    assert parsed() == Config()


def test_every_type_of_flag() -> None:
    assert parsed(
        *("deit", "--epochs", "7", "--alpha", "0.5", "--init", "scratch", "--threads", "2", "--no-amp", "--resume"),
        *("--limits", "1", "2.5", "--max-params", "3e6"),
    ) == Config("deit", 7, 0.5, "scratch", 2, False, True, (1.0, 2.5), 3e6)


def test_a_flag_of_several_values_may_be_repeated() -> None:
    assert parsed("--limits", "1", "--limits", "2", "3").limits == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "deit --epochs 7 --no-amp --resume --limits 1.0 2.5",
        "--init scratch --threads 2 --amp",
        "'a b' --alpha 0.5",
        "--epochs 3 --init inherit --no-resume --max-params none",  # defaults, which a recipe would replace
    ],
)
def test_a_config_is_spelled_as_the_command_that_gives_it(argv: str) -> None:
    config = parsed(*shlex.split(argv))
    assert shlex.split(spell("nas.prog", config)) == ["python", "-m", "nas.prog", *shlex.split(argv)]


def test_what_python_gives_is_spelled_also_where_it_is_the_default() -> None:
    assert spell("m", settings(Config, epochs=3, alpha=2.0, max_params=None)) == (
        "python -m m --epochs 3 --alpha 2.0 --max-params none"
    )
    assert spell("m", amend(settings(Config, epochs=3), threads=2)) == "python -m m --epochs 3 --threads 2"
    nothing_to_type: dict[str, Any] = {"model": None, "amp": None, "limits": (), "formats": []}
    assert spell("m", settings(Config, **nothing_to_type)) == "python -m m"
    assert spell("m", Config()) == "python -m m"


def test_a_field_may_end_in_an_underscore_where_its_flag_is_a_keyword() -> None:
    @dataclass(frozen=True)
    class Taking(Flags):
        from_: str | None = flag(None, "where from")

    config = parse(Taking, ["--from", "there"], "prog", "")
    assert config == Taking("there")
    assert spell("prog", config) == "python -m prog --from there"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("deit --epoch 3", "unrecognized arguments: --epoch 3; see prog --help"),
        ("one two", "unrecognized arguments: two; see prog --help"),
        ("--epochs", "argument --epochs: expected one argument; see prog --help"),
        ("--limits", "argument --limits: expected at least one argument; see prog --help"),
        ("--epochs 0", "--epochs is 0; give a number at least 1 and at most 100"),
        ("--epochs -5", "--epochs is -5; give a number at least 1 and at most 100"),
        ("--epochs 101", "--epochs is 101; give a number at least 1 and at most 100"),
        ("--epochs 1.5", "--epochs is '1.5'; give a whole number"),
        ("--alpha x", "--alpha is 'x'; give a finite number"),
        ("--alpha nan", "--alpha is 'nan'; give a finite number"),
        ("--max-params inf", "--max-params is 'inf'; give a finite number"),
        ("--alpha 0", "--alpha is 0.0; give a number above 0 and below 10"),
        ("--alpha 10", "--alpha is 10.0; give a number above 0 and below 10"),
        ("--limits 1 0", "--limits is 0.0; give a number above 0"),
        ("--init none", "--init is 'none'; choose from inherit, scratch"),
        ("--threads 3", "--threads is '3'; choose from 1, 2"),
        ("--threads two", "--threads is 'two'; choose from 1, 2"),
        ("--resume=yes", "argument --resume/--no-resume: ignored explicit argument 'yes'; see prog --help"),
    ],
)
def test_a_mistake_names_the_flag_the_value_and_the_remedy(argv: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(*argv.split())
    assert str(caught.value) == message


@pytest.mark.parametrize("argv", ["--epochs 1", "--epochs 100", "--alpha 9.99", "--max-params 0.1"])
def test_bounds_include_what_they_say(argv: str) -> None:
    parsed(*argv.split())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; give a number at least 1 and at most 100"),
        ({"alpha": float("nan")}, "--alpha is nan; give a number above 0 and below 10"),
        ({"limits": (1.0, 0.0)}, "--limits is 0.0; give a number above 0"),
        ({"init": "none"}, "--init is 'none'; choose from inherit, scratch"),
        ({"threads": 3}, "--threads is 3; choose from 1, 2"),
        ({"formats": ("a", "c")}, "--formats is 'c'; choose from a, b"),
        ({"model": "im\udce9"}, f"model is 'im\\udce9', {NO_TEXT}"),
        ({"tables": ("a\tb\n", "\x1b[2J")}, f"--tables is '\\x1b[2J', {NO_TEXT}"),
    ],
)
def test_what_is_built_from_python_is_checked_too(values: dict[str, Any], message: str) -> None:
    for build in (lambda: Config(**values), lambda: replace(Config(), **values)):
        with pytest.raises(UserError) as caught:
            build()
        assert str(caught.value) == message


def test_from_python_several_values_are_a_list_or_a_tuple() -> None:
    expected = Config(limits=(1.0, 2.0), tables=("phone=2", "3"))
    assert settings(Config, limits=[1.0, 2.0], tables=["phone=2", "3"]) == expected
    assert settings(Config, limits=(1.0, 2.0), tables=("phone=2", "3")) == expected


def test_from_python_one_of_several_values_need_be_no_list_and_a_number_no_text() -> None:
    one = settings(Config, limits=2.5, formats="a", tables=2.0)
    assert one == Config(limits=(2.5,), formats=("a",), tables=("2.0",))
    assert settings(Config, tables=[2, 3]).tables == ("2", "3")
    with pytest.raises(UserError, match="--formats is 'c'; choose from a, b"):
        settings(Config, formats="c")


def test_from_python_paths_are_texts_and_numpys_values_are_pythons() -> None:
    given: dict[str, Any] = {"model": Path("a b"), "epochs": np.int64(3), "alpha": np.float32(0.5), "amp": np.True_}
    found = settings(Config, threads=np.int64(2), limits=[np.float64(1), 2], tables=Path("x"), max_params=None, **given)
    assert found == Config("a b", 3, 0.5, "inherit", 2, True, False, (1.0, 2.0), tables=("x",))
    json.dumps(asdict(found))
    assert [type(value) for value in (found.epochs, found.threads, found.amp)] == [int, int, bool]
    assert shlex.split(spell("m", found))[3:9] == ["a b", "--epochs", "3", "--alpha", "0.5", "--threads"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "3"}, "--epochs is '3'; give a whole number"),
        ({"epochs": True}, "--epochs is True; give a whole number"),
        ({"epochs": 2.0}, "--epochs is 2.0; give a whole number"),
        ({"epochs": None}, "--epochs is None; give a whole number"),
        ({"alpha": "x"}, "--alpha is 'x'; give a finite number"),
        ({"max_params": float("inf")}, "--max-params is inf; give a finite number"),
        ({"limits": [1.0, None]}, "--limits is None; give a finite number"),
        ({"model": ["a"]}, "model is ['a']; give a text"),
        ({"tables": [None]}, "--tables is None; give a text"),
        ({"resume": "no"}, "--resume is 'no'; give True or False"),
        ({"amp": 1}, "--amp is 1; give True or False"),
        ({"threads": "2"}, "--threads is '2'; choose from 1, 2"),
        ({"init": ["inherit"]}, "--init is ['inherit']; choose from inherit, scratch"),
    ],
)
def test_from_python_a_value_of_the_wrong_type_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings(Config, **values)
    assert str(caught.value) == message


def test_given_is_what_the_command_line_says_also_if_it_is_the_default() -> None:
    config = parsed("deit", "--epochs", "3", "--no-resume", "--max-params", "none", "--formats", "a")
    assert config == Config("deit", formats=("a",))
    assert given(config) == {"model", "epochs", "resume", "max_params", "formats"}
    assert flags_given(config) == ["model", "--epochs", "--resume", "--max-params", "--formats"]
    assert given(parsed()) == set()


def test_given_of_what_python_built_is_what_differs() -> None:
    assert given(Config(epochs=3, alpha=2.0)) == {"alpha"}


def test_what_was_not_given_is_filled_and_amended() -> None:
    begun = Config(epochs=7, alpha=2.0, limits=(1.0,))
    config = fill(parsed("--epochs", "3", "--threads", "2"), begun)
    assert config == Config(epochs=3, alpha=2.0, threads=2, limits=(1.0,))
    amended = amend(config, model="deit")
    assert amended == replace(config, model="deit")
    assert given(config) == given(amended) == {"epochs", "threads"}


def test_flags_given_of_a_part() -> None:
    @dataclass(frozen=True)
    class Part(Flags):
        lr: float = flag(0.1, "rate")

    @dataclass(frozen=True)
    class Whole(Part):
        epochs: int = flag(3, "how many")

    assert flags_given(parse(Whole, ["--epochs", "3", "--lr", "0.1"], "prog", ""), Part) == ["--lr"]


def test_help_shows_defaults_choices_and_percent_signs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parsed("--help")
    text = capsys.readouterr().out
    for part in ("What it does.", "100 % sure (default: 1.0)", "{inherit,scratch}", "(default: 3)"):
        assert part in text


def finish(body: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """A command whose `main` has this body, run to its end."""
    code = f"""
import errno
from search_spaces.command import UserError, run
def main():
    {body}
run(main, "go on with --resume")
"""
    return subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("print('done')", 0, ""),
        ("raise UserError('--x is\\n3; give 4')", 2, "error: --x is 3; give 4\n"),
        ("raise KeyboardInterrupt", 130, "interrupted; the files written so far are whole: go on with --resume\n"),
        ("raise OSError(errno.ENOSPC, 'disk full', 'a')", 2, "error: a: disk full; free some space and go on\n"),
        ("open('x' * 300)", 2, f"error: {'x' * 100}: File name too long; give a shorter name or path\n"),
        ("open('/', 'w')", 1, None),
        ("raise MemoryError", 2, "error: out of memory; give a smaller --batch-size, --image-size or space\n"),
        ("raise RuntimeError('a bug')", 1, None),
        ("raise ValueError('a bug')", 1, None),
    ],
)
def test_run_exits_with_one_line_or_with_a_bugs_traceback(body: str, code: int, stderr: str | None) -> None:
    done = finish(body)
    assert done.returncode == code
    if stderr is None:
        assert "Traceback" in done.stderr
    else:
        assert done.stderr == stderr


def test_torchs_out_of_memory_is_one_line() -> None:
    done = finish("import torch; torch.empty(10**15)")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: out of memory")


def test_output_to_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = finish("print('x')", stdout=full.fileno())
    assert (done.returncode, done.stderr) == (2, "error: output: No space left on device; free some space and go on\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "from search_spaces.command.flags import run\nrun(lambda: print('x' * 10**6))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
