"""The benchmark programs that runtimes bring for Android: how each is called, and where it says its times.

Calls and outputs are those of the vendors' documentation and sources: `benchmark_model` of LiteRT
(tflite/tools/benchmark, and litert/tools, which takes the same flags), `executor_runner` of ExecuTorch
(examples/portable/executor_runner) and `onnxruntime_perf_test` of ONNX Runtime (onnxruntime/test/perftest).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

WARM_UP = 3  # runs of a process that do not count; ONNX Runtime's program takes no such number


@dataclass(frozen=True)
class Program:
    """
    Args:
        runtime: whose it is.
        arguments: for a model's file, a number of threads and of runs.
        mean_ms: time of a run, of what it printed and the number of runs; None where it has said none.
        silent: why it may have said none, and the remedy.
        log_tag: of its lines in the system's log, where it writes there instead of to its output.
    """

    name: str
    runtime: str
    arguments: Callable[[str, int, int], str]
    mean_ms: Callable[[str, int], float | None]
    silent: str
    log_tag: str = ""

    def line(self, model: str, threads: int, runs: int, cores: str = "") -> str:
        """A line of the device's shell that runs a model so many times, after those that do not count.

        Args:
            cores: hexadecimal mask of those that may run it, as taskset has it; "" for all.
        """
        line = f"{f'taskset {cores} ' if cores else ''}./{self.name} {self.arguments(model, threads, runs)}"
        if not self.log_tag:
            return line
        log = f"logcat -d -v raw --pid=$pid -s {self.log_tag}"
        return f"{line} & pid=$!; wait $pid; code=$?; {log}; exit $code"


def _litert(model: str, threads: int, runs: int) -> str:
    counts = f"--num_runs={runs} --min_secs=0 --warmup_runs={WARM_UP} --warmup_min_secs=0"
    return f"--graph={model} --num_threads={threads} {counts} --use_xnnpack=true"


def _litert_ms(output: str, _runs: int) -> float | None:
    """Of the last line of statistics, "count=50 first=15 curr=14 min=14 max=15 avg=14.2 std=0", in µs; the one before
    is of the warm-up. Of equal times it has "curr" alone.
    """
    found = [dict(re.findall(r"(\w+)=([\d.e+]+)", line)) for line in output.splitlines() if "count=" in line]
    average = (found[-1].get("avg") or found[-1].get("curr")) if found else None
    return float(average) / 1e3 if average else None


def _executorch(model: str, threads: int, runs: int) -> str:
    return f"--model_path={model} --num_executions={WARM_UP + runs} --cpu_threads={threads}"


def _executorch_ms(output: str, runs: int) -> float | None:
    """Of each run, where the program says it; else of all together, the warm-up included."""
    if each := re.findall(r"Iteration \d+ of \d+: ([\d.]+) ms", output):
        return mean(map(float, each[-runs:]))
    if together := re.findall(r"executed successfully (\d+) time\(s\) in ([\d.]+) ms", output):
        count, total_ms = together[-1]
        return float(total_ms) / int(count)
    return None


def _onnxruntime(model: str, threads: int, runs: int) -> str:
    """It makes the input itself (-I), optimizes as sessions do by default, and leaves the first run out by itself."""
    return f"-e cpu -o 99 -m times -r {runs} -x {threads} -y 1 -I {model}"


def _onnxruntime_ms(output: str, _runs: int) -> float | None:
    found = re.findall(r"Average inference time cost(?: total)?: ([\d.e+-]+) ms", output)
    return float(found[-1]) if found else None


PROGRAMS = {
    "litert": Program(
        "benchmark_model", "LiteRT", _litert, _litert_ms, "give the benchmark_model that LiteRT publishes for Android"
    ),
    "executorch": Program(
        "executor_runner",
        "ExecuTorch",
        _executorch,
        _executorch_ms,
        "build it with -DEXECUTORCH_ENABLE_LOGGING=ON",
        log_tag="ExecuTorch",
    ),
    "onnxruntime": Program(
        "onnxruntime_perf_test",
        "ONNX Runtime",
        _onnxruntime,
        _onnxruntime_ms,
        "give a newer one, which takes -I",
    ),
}  # by backend
