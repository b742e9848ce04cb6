"""ExecuTorch on a CPU with the XNNPACK delegate, batch 1, float32 or int8 by XNNPACK's own quantizer.

Lowered as ExecuTorch's documentation has it, `to_edge_transform_and_lower(export(...), [XnnpackPartitioner()])`. What
XNNPACK does not take falls back silently to ExecuTorch's portable kernels, which are "not optimized for performance";
the share of such operators is `Session.devices`. Of EfficientFormerV2 these are the four `expand_copy` that the two
matrix products of an attention become, and the mean in the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latency_lut.backends.base import FileBackend, Job, Runtime, Session, require
from search_spaces import UserError
from search_spaces.command import quiet

if TYPE_CHECKING:
    import torch

INSTALL = "pip install executorch==1.5.1"
SHARE = "xnnpack_share"  # a constant method of the program: the share of its operators that XNNPACK runs


class ExecuTorchBackend(FileBackend):
    """
    Args:
        threads: of the pool that all ExecuTorch sessions of a process share.
        precision: "float32", or "int8": static quantization, weights per channel; what XNNPACK has no int8 kernel
            for, softmax and GELU, stays float32.
    """

    name = "executorch"
    suffix = ".pte"

    def __init__(self, threads: int = 1, precision: str = "float32", compute_unit: str = "cpu") -> None:
        self.threads, self.precision, self.compute_unit = threads, precision, compute_unit

    def export(self, job: Job, path: Path) -> None:
        """Raises UserError if ExecuTorch is not installed."""
        _runtime()
        with quiet():
            path.write_bytes(_lower(job, self.precision))

    def load(self, path: Path) -> Session:
        """A session of any program with one float32 input. ExecuTorch's Python runtime itself needs torch.

        Raises:
            UserError: ExecuTorch is not installed, or its pool has another number of threads already.
            RuntimeError: the file is no program that it can run.
        """
        import torch

        runtime = _runtime()
        _set_threads(runtime, self.threads)
        program = path.read_bytes()
        module = runtime._load_for_executorch_from_buffer(program)
        shape = module.method_meta("forward").input_tensor_meta(0).sizes()
        inputs = (torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32)),)

        def run(repeats: int) -> None:
            assert program  # the module points into it
            for _ in range(repeats):
                module.forward(inputs, clone_outputs=False)

        if SHARE not in module.method_names():
            return Session(run)
        (share,) = module.run_method(SHARE, ())
        return Session(run, {"xnnpack": share, "portable": 1 - share})

    def answering(self, path: Path) -> Callable[[np.ndarray], np.ndarray]:
        import torch

        runtime = _runtime()
        _set_threads(runtime, self.threads)
        program = path.read_bytes()
        module = runtime._load_for_executorch_from_buffer(program)

        def run(images: np.ndarray) -> np.ndarray:
            assert program  # the module points into it
            (output,) = module.forward((torch.from_numpy(images),))
            return np.asarray(output)

        return run

    def describe(self) -> Runtime:
        _runtime()
        from executorch.version import __version__

        return self.on_this_cpu("ExecuTorch", __version__)


def _runtime() -> Any:
    require("executorch", INSTALL)
    return require("executorch.extension.pybindings.portable_lib", INSTALL)


_pool: list[int] = []  # the number of threads in this process, once it is set


def _set_threads(runtime: Any, threads: int) -> None:
    """Once only: a session keeps a pointer to the pool that it was loaded with, and resetting frees that pool."""
    if not _pool:
        runtime._unsafe_reset_threadpool(threads)
        _pool.append(runtime._threadpool_get_thread_count())
    if _pool != [threads]:
        raise UserError(
            f"threads is {threads}, but ExecuTorch's pool in this process has {_pool[0]}; use another process"
        )


def _lower(job: Job, precision: str) -> bytes:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeProgramManager, to_edge_transform_and_lower
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    inputs = (torch.zeros(1, *job.input_shape),)
    program = torch.export.export(job.module(), inputs)
    program = constant_prop_pass(program)  # or attention's biases would be gathered in each run, by a portable kernel
    if precision == "int8":
        program = torch.export.export(_quantize(program.module(), job.calibration()), inputs)
    softmax = torch.ops.aten.softmax.int
    if program.graph.find_nodes(op="call_function", target=softmax):
        program = program.run_decompositions({softmax: _softmax})
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    # Only here is the share known, and nothing but a new manager takes further constant methods.
    forward = lowered.exported_program()
    constants = {SHARE: _delegated_share(forward.graph_module)}
    manager = EdgeProgramManager({"forward": forward}, constants, lowered.compile_config)
    return bytes(manager.to_executorch().buffer)


def _softmax(images: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Over rows of a matrix. ExecuTorch 1.5.1 keeps a convolution's output channels-last, where XNNPACK would take the
    softmax over the channels, whatever `dim` is: attention with talking heads gave wrong results.
    """
    import torch

    if dtype is not None:
        images = images.to(dtype)
    if dim % images.ndim != images.ndim - 1:
        return torch._softmax(images, dim, False)
    return torch._softmax(images.reshape(-1, images.shape[-1]), 1, False).reshape(images.shape)


def _quantize(module: torch.nn.Module, images: Sequence[np.ndarray]) -> torch.nn.Module:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(module, _quantizer())
    for batch in images:
        prepared(torch.from_numpy(batch))
    quantized: torch.nn.Module = convert_pt2e(prepared)
    return quantized


def _quantizer() -> Any:
    """XNNPACK's, which takes ReLU6 as it takes ReLU.

    By itself it would take the range of what comes before a ReLU6: of the 256 steps few were left for 0 to 6, which
    cost EfficientNet-Lite0 3 points. XNNPACK fuses both with the convolution.
    """
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    aten, config = torch.ops.aten, get_symmetric_quantization_config(is_per_channel=True)
    relu6 = (aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default)

    class Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for clamp in (node for node in model.graph.nodes if node.target in relu6):
                before = clamp.args[0]
                if before.target in (aten.conv2d.default, aten.linear.default) and len(before.users) == 1:
                    takes = {before.args[0]: config.input_activation, before.args[1]: config.weight}
                    gives = config.output_activation
                    before.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(takes, _annotated=True)
                    clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(output_qspec=gives, _annotated=True)
            return super().annotate(model)

    return Quantizer().set_global(config)


def _delegated_share(graph: torch.fx.GraphModule) -> float:
    from executorch.devtools.backend_debug import get_delegation_info

    operators = get_delegation_info(graph).delegation_by_operator
    counts = [(count.delegated, count.non_delegated) for name, count in operators.items() if name != "getitem"]
    delegated, portable = map(sum, zip(*counts, strict=True))
    return delegated / (delegated + portable)
