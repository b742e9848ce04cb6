"""What a command sets in its process; importing a package of ours sets nothing.

Libraries read environment variables when they are loaded, so a command must set them before its module imports torch or
timm. `python -m nas.search` imports the package `nas` first, and that `search_spaces`, which prepares the process if a
command is starting (`is_starting`). A script that is run calls `prepare` by itself, above its other imports.

Processes that a command starts inherit its environment; those of a Ray cluster are given `inherited`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMMANDS = ("search_spaces", "latency_lut", "nas")  # packages of commands

OFFLINE = ("HF_HUB_OFFLINE", "1")  # huggingface_hub, which timm imports: no command downloads what it was not asked for
OURS = ("MOBILE_NAS_OFFLINE", "1")  # that we have set it, not the user
# libgomp, which torch's wheels for Linux bring: the rounds that its threads spin while they wait for one another before
# they sleep. By default that is milliseconds, which beside a busy process take the core from those they wait for: a
# training step on two cores takes 4 times as long, with this about 2.5 times, and alone as long as before
# (scripts/bench_process.py). OMP_WAIT_POLICY=passive, no spinning, costs a fifth alone.
SPIN = ("GOMP_SPINCOUNT", "1000")
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")  # the user's own choices of how threads wait

# glibc's malloc gives back to the system what is free at the end of its memory, and what is large always: a training
# step frees its activations, and the next one faults their pages in again, which takes up to a tenth of its time
# (scripts/bench_process.py). Here it keeps up to a GiB, and all blocks below the most that it takes (mallopt(3)).
MALLOPT = {-1: 2**30, -3: 2**25}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, bytes
TUNED = ("MALLOC_", "GLIBC_TUNABLES")  # how the user's own choices of these begin


def is_starting() -> bool:
    """Whether `python -m` is about to run one of our commands, for which it imports our packages."""
    return _module().partition(".")[0] in COMMANDS


def prepare() -> None:
    """Sets what the user has not, and lets Ctrl-C end the process without a traceback until `command.run` catches it.

    Commands that measure latency leave OpenMP and malloc as any other program has them, for that is part of what they
    measure.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stay_offline()
    if _module() == "nas" or _module().startswith("latency_lut."):  # `nas` only calls others
        return
    if not any(name in os.environ for name in WAITING):
        os.environ[SPIN[0]] = SPIN[1]
    keep_memory()


def keep_memory() -> None:
    """Lets this process keep the memory that it frees; nothing where malloc is not glibc's, or the user has set it."""
    if platform.libc_ver()[0] == "glibc" and not any(name.startswith(TUNED) for name in os.environ):
        for option, size in MALLOPT.items():
            ctypes.CDLL(None).mallopt(option, size)


def stay_offline() -> None:
    """Nothing is downloaded by this process, if timm is not imported yet, and by those that it starts, but `online`."""
    if OFFLINE[0] not in os.environ:
        os.environ.update([OFFLINE, OURS])


def is_kept_offline() -> bool:
    """Whether the user has set that huggingface_hub downloads nothing."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE and OURS[0] not in os.environ


@contextmanager
def online() -> Iterator[None]:
    """Within it huggingface_hub downloads, unless the user has set that it does not."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if OURS[0] in os.environ:
        constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def inherited() -> dict[str, str]:
    """The variables above that are set here, for processes that do not inherit the environment."""
    return {name: os.environ[name] for name in (OFFLINE[0], OURS[0], *WAITING) if name in os.environ}


def _module() -> str:
    """The module that `python -m` is about to run; empty once its code runs, and in every other process.

    While Python looks for the module, which imports its packages, `sys.argv[0]` is "-m" (Python's documentation of that
    option).
    """
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m") if sys.argv[:1] == ["-m"] else ""
