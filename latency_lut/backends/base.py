"""What a runtime must do to have tables: turn a job into a session that can be run, and say what it is.

Some runtimes run models from files. Their files can be written on one machine and measured on another
(`latency_lut.export`, `latency_lut.measure`), so loading one needs neither torch nor anything else that exporting does.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from latency_lut.backends.machine import cpu_model, os_name
from latency_lut.backends.protocol import Clock, Run, Settings, SystemClock
from search_spaces import Arch, BlockSpec, SearchSpace, UserError
from search_spaces.command.files import slug

if TYPE_CHECKING:
    from torch import nn


class DeviceGone(UserError):  # noqa: N818
    """A device has been disconnected: nothing more can be asked of it, whatever the network."""

    @classmethod
    def while_it_was_to(cls, name: str, doing: str) -> Self:
        """With the remedy."""
        kept = "what was measured is kept: connect and unlock it, and give the same command again"
        return cls(f"{name} does not answer any more (it was to {doing}); {kept}")


@dataclass(frozen=True)
class Runtime:
    """What graphs are run by. `threads` is 0 where the runtime chooses."""

    device: str
    os: str
    runtime: str
    runtime_version: str
    compute_unit: str
    precision: str
    threads: int

    def __post_init__(self) -> None:
        """ValueError on a number of threads that nothing can have."""
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it is at least 1, or 0 where the runtime chooses")

    def __str__(self) -> str:
        """On one line, for a reader."""
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.threads else ""
        return f"{self.runtime} {self.runtime_version}, {self.precision}, {self.compute_unit}{threads}, {self.device}"

    def slug(self, backend: str, *, elsewhere: bool = False) -> str:
        """A part of a file's name that says what differs between one user's measurements.

        Args:
            elsewhere: whether the device is another than this machine, or may be.
        """
        parts = [backend, self.precision, f"{self.threads}t" if self.threads else self.compute_unit]
        return slug("-".join([*parts, self.device] if elsewhere or not self.threads else parts))


@dataclass(frozen=True)
class Job:
    """A network to time, batch 1.

    Args:
        input_shape: (channels, height, width), or (tokens, channels) of a block on a sequence.
        build: makes the module as it is trained, freshly initialized.
        blocks: what it is made of, one after another, where that is known.
        arch: which network of the space it is, where it is one.
        images: that int8 quantizers find the ranges of activations on, each (1, *input_shape) float32; noise where
            there are none, which does for a time.
        float_ends: input and output are float32 in an int8 file too, as apps want; between blocks nothing converts.
    """

    input_shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    blocks: tuple[BlockSpec, ...] = ()
    arch: Arch | None = None
    images: Sequence[np.ndarray] = ()
    float_ends: bool = False

    def calibration(self) -> Sequence[np.ndarray]:
        """The images, or two of noise, the same each time."""
        noise = np.random.default_rng(0)
        return self.images or list(noise.standard_normal((2, 1, *self.input_shape), dtype=np.float32))

    def module(self) -> nn.Module:
        """The deployed module; its weights are always the same, the caller's generator is untouched."""
        import torch

        from search_spaces.deployed import deployed

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return deployed(self.build())


def blocks_job(blocks: Sequence[BlockSpec]) -> Job:
    """The blocks one after another, each with random weights of its own.

    What the last hands on besides is dropped, but for what parts of a head have made: that is what they are for. It
    passes by the blocks that follow, few of which let it through themselves.
    """

    def build() -> nn.Module:
        from torch import nn

        from search_spaces.dense.passing import unpacked

        class Chain(nn.Sequential):
            def forward(self, x: Any) -> Any:
                found: tuple[Any, ...] = ()
                for block in self:
                    x, made = unpacked(block(x))
                    found += made
                x = x[0] if isinstance(x, tuple) else x
                return (x, *found) if found else x

        return Chain(*(block.build() for block in blocks))

    return Job(blocks[0].input_shape(), build, tuple(blocks))


def network_job(space: SearchSpace, arch: Arch) -> Job:
    """`space.build(arch)`, as it would be shipped."""
    shape = (space.in_chans, space.image_size, space.image_size)
    return Job(shape, lambda: space.build(arch), space.lower(arch), arch)


@dataclass(frozen=True)
class Session:
    """A job, loaded, with its input in place.

    Args:
        run: runs it so many times, one after another.
        devices: share of its operators by the compute device that the runtime prefers for them; empty where the
            runtime has but one or does not tell.
    """

    run: Run
    devices: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatorTime:
    """Mean time of one operator in one run, as the runtime itself reports it.

    Args:
        type: the runtime's name for what it does, e.g. "Conv".
        detail: what the type alone does not tell, e.g. "depthwise"; may be empty.
    """

    name: str
    type: str
    ms: float
    detail: str = ""


class Backend(ABC):
    """A runtime on a device. Construct with `latency_lut.backends.registry.make_backend`.

    Attributes:
        name: as the command line has it.
        precision: of weights and activations, e.g. "float32".
        compute_unit: as `Runtime` has it.
        threads: as `Runtime` has it.
        clock: what the runs are timed by; a runtime that times itself brings its own.
        tuning_s: seconds of tuning kernels a graph, which times depend on; None where none are tuned.
    """

    name: str
    precision: str
    compute_unit: str
    threads: int
    clock: Clock = SystemClock()
    tuning_s: int | None = None

    @abstractmethod
    def describe(self) -> Runtime:
        """The runtime and device that sessions use; UserError, with a remedy, if they cannot run here."""

    def on_this_cpu(self, runtime: str, version: str) -> Runtime:
        """What `describe` tells of a runtime on the processor of this machine."""
        return Runtime(cpu_model(), os_name(), runtime, version, self.compute_unit, self.precision, self.threads)

    @abstractmethod
    def prepare(self, job: Job) -> Session:
        """Loads a job."""

    def settings(self, samples: int) -> Settings:
        """How this runtime is best sampled."""
        return Settings(samples)

    def facts(self) -> dict[str, Any]:
        """What times depend on besides what `describe` and `settings` tell, such as which of two equal phones it is.

        By name, as JSON; a measurement that was interrupted goes on only with the same.
        """
        return {}

    def profile(self, job: Job, repeats: int) -> tuple[OperatorTime, ...]:
        """Time of each operator of the runtime's own optimized graph, averaged over the runs, in order of execution."""
        raise UserError(f"{self.name} does not report the time of operators; give --backend onnxruntime")


class FileBackend(Backend):
    """A runtime that runs models from files.

    Attributes:
        suffix: of a model's file or folder, with the dot.
    """

    suffix: str

    @abstractmethod
    def export(self, job: Job, path: Path) -> None:
        """Writes the model to `path`, the same bytes each time."""

    @abstractmethod
    def load(self, path: Path) -> Session:
        """Loads a model that `export` wrote, here or elsewhere. Needs no torch, and the file no longer afterwards."""

    def answering(self, path: Path) -> Callable[[np.ndarray], np.ndarray]:
        """What a model that `export` wrote, with float ends, answers: float32 of batch 1 to float32."""
        raise NotImplementedError(f"{self.name} only times models")

    def prepare(self, job: Job) -> Session:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{self.suffix}"
            with one_torch_thread():
                self.export(job, path)
            return self.load(path)


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Exporting traces tiny operators, which threads only slow down: on a busy machine 2 took 4 times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def require(module: str, install: str) -> Any:
    """The module, imported; UserError, with the command that installs it, where it cannot be."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded: {error}"
        raise UserError(f"{module} {why}; {install}") from None
