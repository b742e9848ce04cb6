"""--python: the same command in another environment, where a runtime lives that does not install beside the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from search_spaces import UserError

ROOT = Path(__file__).resolve().parent.parent
CHILD = "LATENCY_LUT_CHILD"  # set in the process that --python has started


def delegate(python: str | None, module: str, argv: Sequence[str]) -> bool:
    """Runs `python -m module argv` by the interpreter `python`, from the same source and in the same folder.

    Output, progress and Ctrl-C go through; an unsuccessful end ends this process with the same exit status.

    Returns:
        False, with nothing done, if there is no such wish, or if this is that process.

    Raises:
        UserError: `python` cannot be started.
    """
    if python is None or os.environ.get(CHILD):
        return False
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [str(Path(python).expanduser()), "-m", module, *argv]
    try:
        child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, CHILD: "1"})
    except OSError as error:
        raise UserError(f"--python {python} cannot be started: {error.strerror}; give a Python interpreter") from None
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:  # the child has received it too, and says how to go on
            continue
    if code:
        sys.exit(code if code > 0 else 128 - code)
    return True
