"""ONNX Runtime on this machine's CPU, float32, batch 1.

The tracing exporter is used (`dynamo=False`): 15 ms for a block instead of 0.9 s, and the graphs are the same after
ONNX Runtime's optimization (nano largest 244 nodes, 0.890 against 0.897 ms; largest at 224 px 867 nodes, 86.5 against
86.4 ms on an AMD EPYC of the Zen 4 generation, 1 thread, onnxruntime 1.31).
"""

from __future__ import annotations

import contextlib
import platform
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from latency_lut.protocol import Run, Runtime
from search_spaces import Arch, BlockSpec, SearchSpace


class OnnxRuntimeBackend:
    """
    Args:
        threads: that compute one operator together (`intra_op_num_threads`).
    """

    name = "onnxruntime"

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def export_blocks(self, blocks: Sequence[BlockSpec]) -> bytes:
        with _exporting():
            return _export(nn.Sequential(*(block.build() for block in blocks)), blocks[0].input_shape())

    def export_network(self, space: SearchSpace, arch: Arch) -> bytes:
        with _exporting():
            return _export(space.build(arch), (space.in_chans, space.image_size, space.image_size))

    def load(self, model: bytes) -> Run:
        return _session(model, self.threads)

    def load_file(self, path: Path) -> Run:
        """A session of any ONNX file with one input; dimensions left open in the file are 1.

        Raises:
            onnxruntime's errors for a file that is no ONNX model.
        """
        return _session(str(path), self.threads)

    def describe(self) -> Runtime:
        import onnxruntime

        return Runtime(
            device=_cpu_model(),
            os=f"{platform.system()} {platform.machine()}",
            runtime="ONNX Runtime",
            runtime_version=onnxruntime.__version__,
            compute_unit="CPU",
            precision="float32",
            threads=self.threads,
        )


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """The same random weights at every export, and one thread; the caller's generator and threads are as before.

    Tracing runs tiny operators, which several threads only slow down: on a busy machine 2 took four times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)


def _export(module: nn.Module, shape: tuple[int, int, int]) -> bytes:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # on the exporter's age, and on shapes that are constants here
        path = Path(folder) / "model.onnx"
        torch.onnx.export(module.eval(), (torch.zeros(1, *shape),), path, dynamo=False)
        return path.read_bytes()


def _session(model: bytes | str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The workers of a session would go on spinning after its run and take the cores of the next session: with 2 threads
    # four of five samples were disturbed and networks took twice their time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in source.shape]
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input(source.name, images)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def run(repeats: int) -> None:
        assert images.size  # the binding holds a bare pointer into it
        for _ in range(repeats):
            session.run_with_iobinding(binding)

    return run


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
