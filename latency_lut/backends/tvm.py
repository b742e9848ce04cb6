"""Apache TVM on a CPU, batch 1, float32: kernels as its compiler makes them, or as its tuner finds them.

Without tuning, TVM has no schedules for a CPU: its kernels are plain loops, of which LLVM makes what it can, on one
thread. Its tuner, MetaSchedule, tries other loops for each kernel, runs them here, and keeps the fastest.

Networks come from `torch.export`: of the ONNX files that `torch.onnx.export` traces, TVM 0.27 reads no EfficientViT
(a reshape whose input has no known shape).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import platformdirs

from latency_lut.backends.base import Backend, Job, Runtime, Session, one_torch_thread, require
from search_spaces import UserError
from search_spaces.command import quiet
from search_spaces.command.files import drop_torn_line, slug, try_lock

# Beside the newer apache-tvm-ffi 0.1.15, which pip would choose, the tuner ends with a segmentation fault.
INSTALL = "pip install 'apache-tvm[meta-schedule,popen-pool]==0.27.0.post1' apache-tvm-ffi==0.1.14.post0"
TUNING_S = 600
ROUNDS = (16, 64)  # candidates of each kernel after each round: all kernels come first to a few, then to more
POPULATION = 128  # of the evolutionary search, by default 512: choosing takes longer than trying where trials are few
CANDIDATE_S = 30.0  # one that runs longer is stopped
RECORDS = ("database_workload.json", "database_tuning_record.json")  # as MetaSchedule names them
BIG_CORES = 1  # a mode of TVM's thread pool


class TvmBackend(Backend):
    """Kernels as TVM's compiler makes them.

    Args:
        threads: of TVM's pool, which all sessions of a process share.
    """

    name = "tvm"
    runtime = "TVM"

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        self.threads, self.precision, self.compute_unit = threads, precision, compute_unit

    def describe(self) -> Runtime:
        return self.on_this_cpu(self.runtime, self._tvm().__version__)

    def prepare(self, job: Job) -> Session:
        tvm = self._tvm()
        forward = self.compiled(job)
        images = tvm.runtime.tensor(np.random.default_rng(0).standard_normal((1, *job.input_shape), dtype=np.float32))

        def run(repeats: int) -> None:
            for _ in range(repeats):
                forward(images)

        return Session(run)

    def compiled(self, job: Job) -> Callable[[Any], Any]:
        """The deployed module as a function of TVM's tensors."""
        tvm = self._tvm()
        tvm.get_global_func("runtime.config_threadpool")(BIG_CORES, self.threads)
        target = _target(self.threads)
        with one_torch_thread(), quiet(), _no_native_warnings(), target:
            executable = tvm.compile(self._scheduled(_kernels(job), target), target=target)
            return tvm.relax.VirtualMachine(executable, tvm.cpu())["main"]

    def _scheduled(self, module: Any, target: Any) -> Any:
        """The module with the loops of its kernels chosen."""
        return module

    def _tvm(self) -> Any:
        tvm = require("tvm", INSTALL)
        require("tvm.relax", INSTALL)
        return tvm


class TunedTvmBackend(TvmBackend):
    """Kernels as MetaSchedule finds them.

    What was tried is kept in the user's cache, for each version, CPU and number of threads. So equal kernels, of
    whatever networks, are tuned once, and tuning that was interrupted or ran out of time goes on.

    Args:
        tuning_s: after so many seconds no other kernel of a graph is begun. Kernels without a trial stay plain loops.
    """

    name = "tvm_tuned"
    runtime = "TVM, tuned"
    tuning_s: int

    def __init__(
        self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu", tuning_s: int = TUNING_S
    ) -> None:
        super().__init__(threads, precision, compute_unit)
        self.tuning_s = tuning_s

    def facts(self) -> dict[str, Any]:
        """The time for tuning: with another one kernels are others."""
        return {"tuning_s": self.tuning_s}

    def _tvm(self) -> Any:
        for package in ("xgboost", "psutil", "cloudpickle"):  # the tuner's, which TVM itself goes without
            require(package, INSTALL)
        tvm = super()._tvm()
        load_intrinsics()
        return tvm

    def _scheduled(self, module: Any, target: Any) -> Any:
        from tvm import relax

        with _database(self._folder()) as database:
            with _workers_of(self.threads):
                tune(module, target, database, time.monotonic() + self.tuning_s)
            with database:
                return relax.transform.MetaScheduleApplyDatabase()(module)

    def _folder(self) -> Path:
        runtime = self.describe()
        name = slug(f"{runtime.runtime_version}-{runtime.device}-{runtime.threads}t")
        return Path(platformdirs.user_cache_dir("mobile-nas")) / "tvm" / name


def load_intrinsics() -> None:
    """Imports those of all of TVM's targets, which its tuner does.

    Each is parsed from Python, and looks for the module of each frame around it among all that are loaded: beside torch
    that took minutes instead of seconds. Frames without a module do as well.
    """
    with mock.patch("inspect.getmodule", return_value=None):
        importlib.import_module("tvm.s_tir.tensor_intrin")


def tune(module: Any, target: Any, database: Any, deadline: float) -> None:
    """Tries candidates for each kernel of a module until it has the last of ROUNDS, or time is over.

    Args:
        database: where what was tried is, and goes to.
        deadline: by `time.monotonic`.
    """
    from tvm.s_tir import meta_schedule as ms

    kernels = sorted(ms.relax_integration.extract_tasks(module, target), key=lambda kernel: -kernel.weight)
    cost_model = ms.CostModel.create("xgb", num_tuning_cores=1, tree_method="auto")
    runner = ms.runner.LocalRunner(timeout_sec=CANDIDATE_S)  # a process of its own, which a candidate can end
    try:
        for trials in ROUNDS:
            for kernel in kernels:
                missing = trials - _tried(kernel.dispatched[0], database, trials)
                if missing > 0 and time.monotonic() < deadline:
                    _tune_kernel(kernel, missing, target, database, runner, cost_model)
    finally:
        runner.pool.shutdown()


def _tried(kernel: Any, database: Any, most: int) -> int:
    """How many candidates of the kernel have run, at most `most`."""
    if not database.has_workload(kernel):
        return 0
    return len(database.get_top_k(database.commit_workload(kernel), most))


def _tune_kernel(kernel: Any, trials: int, target: Any, database: Any, runner: Any, cost_model: Any) -> None:
    from tvm.s_tir import meta_schedule as ms

    context = ms.TuneContext(
        kernel.dispatched[0],
        target=target,
        space_generator="post-order-apply",
        search_strategy=ms.search_strategy.EvolutionarySearch(population_size=POPULATION),
        task_name=kernel.task_name,
        num_threads=1,
    )
    ms.tune_tasks(
        tasks=[context.clone()],
        task_weights=[kernel.weight],
        work_dir="",  # of a database that is not given
        max_trials_global=trials,
        num_trials_per_iter=trials,
        builder=_builder(),
        runner=runner,
        database=database,
        cost_model=cost_model,
        task_scheduler="round-robin",
    )


def _builder() -> Any:
    """Compiles candidates in this process: MetaSchedule's own starts processes, which load TVM, for each batch."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder
    from tvm.s_tir.meta_schedule.builder.local_builder import default_build, default_export

    class Builder(PyBuilder):  # type: ignore[misc]
        def build(self, build_inputs: list[Any]) -> list[Any]:
            return [self._built(source) for source in build_inputs]

        def _built(self, source: Any) -> Any:
            try:
                return BuilderResult(default_export(default_build(source.mod, source.target, None)), None)
            except Exception as error:  # a candidate that cannot be compiled is one that is not taken
                return BuilderResult(None, str(error))

    return derived_object(Builder)()


def _kernels(job: Job) -> Any:
    """The deployed module as a graph of fused kernels, weights in it."""
    import torch
    from tvm import relax, transform
    from tvm.relax.frontend.torch import from_exported_program

    with torch.no_grad():
        program = torch.export.export(job.module(), (torch.zeros(1, *job.input_shape),))
        module = from_exported_program(program, unwrap_unit_return_tuple=True)
    steps = [relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings(), relax.get_pipeline()]
    return transform.Sequential(steps)(module)


def _target(threads: int) -> Any:
    from tvm.target import Target, codegen

    return Target({"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu()), "num-cores": threads})


@contextlib.contextmanager
def _database(folder: Path) -> Iterator[Any]:
    """What was tried, for this process alone: records name kernels by their line, so two writers would mix them.

    Raises:
        UserError: another process tunes.
    """
    from tvm.s_tir import meta_schedule as ms

    folder.mkdir(parents=True, exist_ok=True)
    lock = try_lock(folder / "lock")
    if lock is None:
        raise UserError(f"another process tunes kernels in {folder}; wait until it ends")
    with lock:
        for name in RECORDS:
            drop_torn_line(folder / name)
        yield ms.database.JSONDatabase(work_dir=str(folder))


@contextlib.contextmanager
def _workers_of(threads: int) -> Iterator[None]:
    """The process that runs candidates has as many threads as what they are for."""
    before = os.environ.get("TVM_NUM_THREADS")
    os.environ["TVM_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        os.environ.pop("TVM_NUM_THREADS")
        if before is not None:
            os.environ["TVM_NUM_THREADS"] = before


@contextlib.contextmanager
def _no_native_warnings() -> Iterator[None]:
    """Keeps what native code writes to stderr off the terminal: TVM warns of each index that it cannot check."""
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
