"""What this machine is called."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from pathlib import Path


def cpu_model() -> str:
    """The processor's own name, e.g. "AMD EPYC 9B14" or "Apple M2"."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    with contextlib.suppress(OSError):  # boards with an ARM processor, e.g. "Raspberry Pi 5 Model B Rev 1.0"
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0 \n")
    if platform.system() == "Darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def os_name() -> str:
    """E.g. "Linux x86_64" or "macOS 15.5 arm64"."""
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    return f"{platform.system()} {platform.machine()}"
