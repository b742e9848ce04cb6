"""--python: the same command in another environment, where a runtime lives that does not install beside the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from search_spaces import UserError

ROOT = Path(__file__).resolve().parent.parent
FLAG = "--python"


def delegate(python: str | None, module: str, argv: Sequence[str]) -> bool:
    """Runs `python -m module argv` by the interpreter `python`, from the same source and in the same folder.

    Output, progress and Ctrl-C go through; an unsuccessful end ends this process with the same exit status.

    Returns:
        False, with nothing done, if there is no such wish.

    Raises:
        UserError: `python` cannot be started.
    """
    if python is None:
        return False
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [str(Path(python).expanduser()), "-m", module, *_without_flag(argv)]
    try:
        child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    except OSError as error:
        raise UserError(f"{FLAG} {python} cannot be started: {error.strerror}; give a Python interpreter") from None
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:  # the child has received it too, and says how to go on
            continue
    if code:
        sys.exit(code if code > 0 else 128 - code)
    return True


def _without_flag(argv: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for argument in argv:
        if skip or argument == FLAG or argument.startswith(f"{FLAG}="):
            skip = argument == FLAG and not skip
        else:
            kept.append(argument)
    return kept
