"""--python: the same command in another environment, where a runtime lives that does not install beside the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from search_spaces import UserError

ROOT = Path(__file__).resolve().parents[2]
CHILD = "LATENCY_LUT_CHILD"  # set in the process that --python has started
# By our modules, whatever the runtime; fvcore and platformdirs by the spaces of timm's networks.
NEEDED = ("filelock", "fvcore", "numpy", "platformdirs", "scipy", "timm", "torch", "tqdm")
PROBE = """
import sys
from importlib.util import find_spec
print("new" if sys.version_info >= (3, 11) else "old", *(name for name in sys.argv[1:] if find_spec(name) is None))
"""


def delegate(python: str | None, module: str, argv: Sequence[str], also: Sequence[str] = ()) -> bool:
    """Runs `python -m module argv` by the interpreter `python`, from the same source and in the same folder.

    Args:
        also: packages that the command needs beside NEEDED, by the names that they are imported by.

    Output, progress and Ctrl-C go through; an unsuccessful end ends this process with the same exit status.

    Returns:
        False, with nothing done, if there is no such wish, or if this is that process.

    Raises:
        UserError: `python` cannot be started, is no Python 3.11, or lacks packages.
    """
    if python is None or os.environ.get(CHILD):
        return False
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    program, environment = str(Path(python).expanduser()), {**os.environ, "PYTHONPATH": path, CHILD: "1"}
    _check(python, program, environment, (*NEEDED, *also))
    child = subprocess.Popen([program, "-m", module, *argv], env=environment)
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:  # the child has received it too, and says how to go on
            continue
    if code:
        sys.exit(code if code > 0 else 128 - code)
    return True


def _check(python: str, program: str, environment: Mapping[str, str], needed: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            [program, "-c", PROBE, *needed], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise UserError(f"--python {python} cannot be started: {error.strerror}; give a Python interpreter") from None
    version, *missing = done.stdout.decode(errors="replace").split() or [""]
    if done.returncode or version != "new":
        raise UserError(f"--python {python} is no Python 3.11 or newer; give an interpreter that is")
    if missing:
        names = " ".join(missing)
        raise UserError(f"--python {python} lacks {names}; install it there: {python} -m pip install {names}")
