"""Which networks of timm are spaces: the smallest of each of its families, or those named.

    python -m scripts.timm_families
    python -m scripts.timm_families --models levit_128s convnextv2_atto
    python -m scripts.timm_families --files

Of each that is one, the number of choices of each field, what of its multiply-accumulates the smallest network of the
space has, and whether three networks of it (the largest, the smallest, a random one) hold what spaces promise: the
supernet, the extracted network and that of its source code compute the same, parameters and MACs are those counted, and
a step of training gives gradients. Of others, why they are none. Those that cannot take --image-size have their own.

With --files, instead, whether the files of a random network compute what it does: its ONNX file, its Core ML program
executed by PyTorch, and the graphs that a latency table times, whole and block by block.

What is found is kept in --out, a line for each network; the same command goes on. An hour on one core, either.
"""

from __future__ import annotations

from search_spaces.command import start

if __name__ == "__main__":
    start.prepare()

import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from search_spaces import SearchSpace, UserError, get_space, macs, num_params
from search_spaces.command import Flags, align, flag, parse, reason, run
from search_spaces.command.files import drop_torn_line, read_json_lines

FIELDS = ("width", "present", "expansion", "heads", "key", "value")
CLOSE = 1e-4  # of the largest logit
Json = dict[str, Any]


@dataclass(frozen=True)
class Config(Flags):
    models: tuple[str, ...] = flag((), "timm's names (default: the smallest network of each of its families)")
    image_size: int = flag(128, "pixels", minimum=32)
    most_params: float = flag(60e6, "families whose smallest network has more parameters are left out", above=0)
    files: bool = flag(False, "check exported files and the graphs of latency tables")
    out: str = flag("runs/timm-families.jsonl", "file of what is found")


def smallest_of_each(most_params: float) -> Iterator[str]:
    """By timm's module, as far as it has a network of at most so many parameters."""
    import timm
    import torch

    for module in timm.list_modules():
        found = []
        for name in timm.list_models(module=module):
            if name.startswith("test_"):
                continue
            try:
                with torch.device("meta"):
                    model = timm.create_model(name)
            except (RuntimeError, NotImplementedError):  # it computes with its tensors
                continue
            found.append((sum(p.numel() for p in model.parameters()), name))
        if found and min(found)[0] <= most_params:
            yield min(found)[1]


def check(name: str, image_size: int, files: bool) -> Json:
    """What there is to say of the network, one of timm's."""
    try:
        try:
            space: SearchSpace = get_space(f"timm/{name}", image_size=image_size, num_classes=5)
        except UserError:
            space = get_space(f"timm/{name}", num_classes=5)
        return {
            "name": name,
            "image_size": space.image_size,
            "choices": dict(Counter(choice.field for choice in space.choices)),
            "smallest": macs(space, space.smallest) / macs(space, space.largest),
            "broken": list(_broken_files(space) if files else _broken(space)),
        }
    except UserError as error:
        return {"name": name, "refused": str(error)}
    except Exception as error:  # what the script looks for
        return {"name": name, "failed": f"{type(error).__name__}: {error}"}


def _broken(space: SearchSpace) -> Iterator[str]:
    """Promises that the space does not keep."""
    import torch
    from torch import nn

    from search_spaces.deployed import deployed
    from search_spaces.structure.fvcore_macs import fvcore_macs
    from search_spaces.structure.verify import close, randomize
    from supernet import Supernet

    torch.manual_seed(0)
    supernet = Supernet(space, norm="shared")
    randomize(supernet)
    x = torch.randn(2, space.in_chans, space.image_size, space.image_size)
    for arch in (space.largest, space.smallest, space.sample(random.Random(1))):
        supernet.train()(x, arch).sum().backward()
        alone = supernet.eval().extract(arch)
        with torch.inference_mode():
            expected = alone(x)
            if not close(supernet(x, arch), expected, CLOSE):
                yield "the supernet computes something else"
            scope: Json = {}
            exec(space.source(arch), scope)
            elsewhere: nn.Module = scope["create_model"]()
            elsewhere.load_state_dict(alone.state_dict())
            if not close(elsewhere.eval()(x), expected, CLOSE):
                yield "its source computes something else"
            shipped = deployed(alone)
            if fvcore_macs(shipped, x[:1]) != macs(space, arch):
                yield "other MACs"
            if sum(p.numel() for p in shipped.parameters()) != num_params(space, arch):
                yield "other parameters"
    if not any(p.grad is not None and bool(p.grad.any()) for p in supernet.parameters()):
        yield "no gradients"


def _broken_files(space: SearchSpace) -> Iterator[str]:
    """Files of a random network that cannot be written, or compute something else."""
    import onnxruntime
    import torch

    from latency_lut.backends.base import Job, blocks_job, network_job
    from latency_lut.backends.onnxruntime import export_onnx
    from nas.exporting.coreml import check_coreml, write_coreml
    from nas.exporting.onnx import check_onnx, write_onnx
    from search_spaces.deployed import deployed
    from search_spaces.structure.verify import close, randomize, settled

    arch = space.sample(random.Random(1))
    torch.manual_seed(0)
    x = torch.randn(2, space.in_chans, space.image_size, space.image_size)
    model = deployed(settled(randomize(space.build(arch).eval()), x))
    info: Any = SimpleNamespace(image_size=space.image_size, classes=tuple("abcde"), mean=space.mean, std=space.std)

    def onnx(folder: Path) -> None:
        write_onnx(model, path := folder / "model.onnx", space.image_size, {}, None)
        check_onnx(path, model, info)

    def coreml(folder: Path) -> None:
        write_coreml(model, path := folder / "model.mlpackage", info, "", {"name": space.name})
        check_coreml(path, model, info)

    def graph(job: Job) -> Callable[[Path], None]:
        def compare(folder: Path) -> None:
            export_onnx(job, path := folder / "graph.onnx")
            session, made = onnxruntime.InferenceSession(path), job.calibration()[0]
            (found,) = session.run(None, {session.get_inputs()[0].name: made})
            if not close(torch.from_numpy(found), job.module()(torch.from_numpy(made)), CLOSE):
                raise ValueError("computes something else")

        return compare

    graphs = {block.key: graph(blocks_job([block])) for block in space.lower(arch)}
    files = {"ONNX": onnx, "Core ML": coreml, "the network in a table": graph(network_job(space, arch)), **graphs}
    broken: dict[str, list[str]] = {}
    for name, compare in files.items():
        try:
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                compare(Path(folder))
        except Exception as error:  # what the script looks for
            broken.setdefault(f"{type(error).__name__}: {reason(error)}", []).append(name)
    for problem, names in broken.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{names[0]}{more}: {problem}"


def as_text(found: Sequence[Json]) -> str:
    """A table of the spaces, then what is none."""
    spaces = [one for one in found if "choices" in one]
    rows = [["", "px", *FIELDS, "smallest, % of the MACs", ""]]
    for one in spaces:
        numbers = [str(one["choices"].get(field, "")) for field in FIELDS]
        share = f"{100 * one['smallest']:.1f}"
        rows.append([one["name"], str(one["image_size"]), *numbers, share, "; ".join(one["broken"])])
    lines = [align(rows, "<" + ">" * (len(FIELDS) + 2) + "<")]
    lines += [one["refused"] for one in found if "refused" in one]
    lines += [f"FAILED: {one['name']}: {one['failed']}" for one in found if "failed" in one]
    kept = sum(not one["broken"] for one in spaces)
    lines.append(f"{len(found)} networks: {len(spaces)} are spaces, of which {kept} keep what they promise")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, sys.argv[1:] if argv is None else argv, "python -m scripts.timm_families", __doc__ or "")
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.touch()
    drop_torn_line(out)
    known = {one["name"]: one for one in read_json_lines(out) if one.get("files", False) == config.files}
    names = config.models or tuple(smallest_of_each(config.most_params))
    for i, name in enumerate(names, 1):
        if name not in known:
            print(f"{name} ({i} of {len(names)})", file=sys.stderr)
            known[name] = {**check(name, config.image_size, config.files), "files": config.files}
            with out.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(known[name])}\n")
    print(f"{as_text([known[name] for name in names])}\nwrote {out}")


if __name__ == "__main__":
    run(main)
