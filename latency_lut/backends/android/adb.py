"""A device that Android's Debug Bridge reaches: files sent to it, and lines of its shell run there.

Calls and answers are those of adb's own documentation and source (platform-tools 36). Whether a call failed because the
device has gone is asked of `adb get-state`: what adb says of a lost connection differs from version to version.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import weakref
from pathlib import Path

from latency_lut.backends.base import DeviceGone
from search_spaces import UserError

PREFIX = "adb:"  # of a --device, before its serial number
FOLDER = "/data/local/tmp/latency_lut"  # ours: emptied when a device is taken, and removed in the end
TIMEOUT_S, STATE_TIMEOUT_S = 600, 30
READY = "device"  # a state: connected, and this computer is allowed
PROPERTIES = ("ro.product.manufacturer", "ro.product.model", "ro.build.version.release", "ro.product.cpu.abi")
REMEDIES = {
    "unauthorized": "unlock it and allow USB debugging by this computer, which it asks on its screen",
    "authorizing": "unlock it and allow USB debugging by this computer, which it asks on its screen",
    "offline": "unlock it and plug it in again, or give adb reconnect offline",
    "no permissions": "this user may not open it: add a udev rule for it (Debian and Ubuntu: apt install "
    "android-sdk-platform-tools-common), and plug it in again",
}


class AndroidDevice:
    """A device by its serial number, or the only one that is connected.

    Args:
        serial: as `adb devices` has it; "" for the only one.

    Raises:
        UserError: no such device is ready, with those that are and what to do; adb is missing.
    """

    def __init__(self, serial: str = "") -> None:
        self.serial = _find(serial)
        self.shell("make its folder", f"rm -rf {FOLDER} && mkdir -p {FOLDER}")
        weakref.finalize(self, _clean, self.serial)

    @functools.cached_property
    def described(self) -> tuple[str, str]:
        """Maker and model, e.g. "Google Pixel 8"; system, its version and instruction set, "Android 15 arm64-v8a"."""
        said = self.shell("describe itself", "; ".join(f"getprop {name}" for name in PROPERTIES))
        maker, model, release, abi = (line.strip() for line in said.splitlines()[-len(PROPERTIES) :])
        return model if model.startswith(maker) else f"{maker} {model}", f"Android {release} {abi}"

    def push(self, path: Path, name: str) -> None:
        """Sends a file to our folder, under another name. Raises as `shell`."""
        self._adb(f"take {path.name}", "push", str(path.absolute()), f"{FOLDER}/{name}")

    def shell(self, doing: str, line: str) -> str:
        """What a line of the device's shell prints, errors included.

        Args:
            doing: what it is for, after "cannot" in a message.

        Raises:
            DeviceGone: the device does not answer any more.
            UserError: the line ends with an error, whose last line of output is told.
        """
        return self._adb(doing, "shell", line)

    def _adb(self, doing: str, *arguments: str) -> str:
        code, output = _call("-s", self.serial, *arguments)
        if code == 0:
            return output
        unreachable, state = _call("-s", self.serial, "get-state", timeout_s=STATE_TIMEOUT_S)
        if unreachable or last_line(state) != READY:
            raise DeviceGone.while_it_was_to(self.serial, doing)
        raise UserError(f"{self.serial} cannot {doing}: {last_line(output) or f'exit status {code}'}")


def last_line(text: str) -> str:
    """The last line that is not empty; "" where there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _clean(serial: str) -> None:
    with contextlib.suppress(UserError):
        _call("-s", serial, "shell", f"rm -rf {FOLDER}", timeout_s=STATE_TIMEOUT_S)


def _call(*arguments: str, timeout_s: int = TIMEOUT_S) -> tuple[int, str]:
    """Exit status of an adb command, which is that of the device's command, and all that both print."""
    try:
        done = subprocess.run(
            ["adb", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        raise UserError(
            f"adb cannot be started ({error.strerror}); install Android's platform-tools and put adb on PATH"
        ) from None
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {timeout_s} s"
    return done.returncode, done.stdout.replace("\r\n", "\n")


def _find(serial: str) -> str:
    """The serial number of the device that is meant."""
    devices = _devices()
    others = ", ".join(f"{name} is {state}" for name, state in devices.items() if name != serial)
    if not serial:
        ready = [name for name, state in devices.items() if state == READY]
        if len(ready) > 1:
            raise UserError(f"--device is 'adb:', but {len(ready)} are connected; name one: {', '.join(ready)}")
        serial = ready[0] if ready else next(iter(devices), "")
    if (state := devices.get(serial)) == READY:
        return serial
    if state is not None:
        remedy = next((text for known, text in REMEDIES.items() if state.startswith(known)), "start Android on it")
        raise UserError(f"{serial} is {state}; {remedy}")
    raise UserError(
        f"--device is {PREFIX + serial!r}; connected: {others or 'none'}; "
        "plug it in, turn on USB debugging in its developer options, and look at adb devices"
    )


def _devices() -> dict[str, str]:
    """The state of each device that `adb devices` lists, by serial number."""
    code, output = _call("devices")
    if code:
        raise UserError(f"adb cannot list devices: {last_line(output)}; try adb kill-server")
    _, _, listed = output.partition("List of devices attached\n")
    return dict(line.split("\t", 1) for line in listed.splitlines() if "\t" in line)
