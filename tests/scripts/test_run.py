from __future__ import annotations

import importlib

import pytest

from nas.supernets.tasks import config_of_command
from scripts.run import JOBS
from search_spaces.command import Flags, parse

COMMANDS = [(job, *command) for job, (commands, _) in JOBS.items() for command in commands("r")]


@pytest.mark.parametrize("command", COMMANDS, ids=[f"{job} {module}" for job, module, *_ in COMMANDS])
def test_commands_have_these_flags(command: tuple[str, ...]) -> None:
    _, name, *flags = command
    module = importlib.import_module(name)
    if name == "nas.train_supernet":
        parse(config_of_command(flags), flags, name, "")
        return
    (config,) = {c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Flags) and c is not Flags}
    parse(config, flags, name, "")
