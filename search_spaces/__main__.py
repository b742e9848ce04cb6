"""Shows what can be searched: all spaces, one of them, or the blocks of one network with their costs.

python -m search_spaces
python -m search_spaces efficientformerv2 --arch s0
python -m search_spaces efficientformerv2 --arch s0 --print-arch > mine.json    # a start for one of your own
python -m search_spaces efficientformerv2 --arch mine.json --json
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from search_spaces import Arch, SearchSpace, UserError, get_space, macs, num_params, space_names
from search_spaces.command import Flags, align, flag, parse, run


@dataclass(frozen=True)
class Config(Flags):
    space: str | None = flag(None, f"show this space only, one of {', '.join(space_names())}", positional=True)
    arch: str | None = flag(None, "show the blocks of this network: a named arch or a JSON file")
    image_size: int | None = flag(None, "height and width of the images (default: the space's own)")
    num_classes: int | None = flag(None, "of the head (default: the space's own)")
    json: bool = flag(False, "print the arch's blocks as JSON")
    print_arch: bool = flag(False, "print the arch itself as JSON, such as --arch takes")


def show(config: Config) -> str:
    """The text that the command prints.

    Raises:
        UserError: an unknown space or arch, or flags that do not go together.
    """
    if config.arch is None:
        if config.json or config.print_arch:
            raise UserError("--json and --print-arch show one network; name it with --arch")
        names = [config.space] if config.space else space_names()
        return "\n\n".join(describe(get_space(n, config.image_size, config.num_classes)) for n in names)
    if config.space is None:
        raise UserError(f"--arch is of a space; name it before, one of {', '.join(space_names())}")
    if config.json and config.print_arch:
        raise UserError("--json and --print-arch each print one JSON object; give one of them")
    space = get_space(config.space, config.image_size, config.num_classes)
    arch = space.load_arch(config.arch)
    if config.json:
        return json.dumps(summary(space, arch), indent=1)
    if config.print_arch:
        return arch_json(space, arch)
    return block_table(space, arch)


def describe(space: SearchSpace) -> str:
    """The space's size, its choices with their options, and its named archs with their costs."""
    power = math.log10(space.size())
    varying = [choice for choice in space.choices if len(choice.options) > 1]
    lines = [
        f"{space.name}: 10^{power:.1f} archs for images of {space.image_size} px and {space.num_classes} classes",
        "",
        f"  {len(varying)} choices",
    ]
    for field in dict.fromkeys(choice.field for choice in varying):
        options = [choice.options for choice in varying if choice.field == field]
        distinct = options[:1] if len(set(options)) == 1 else options
        spelled = "  ".join("{" + ", ".join(map(str, o)) + "}" for o in distinct)
        lines.append(f"    {field:<10} {len(options):>3} x  {spelled}")
    lines += [f"    {line}" for remark in space.remarks for line in wrap(remark, 100)]
    rows = [("", "blocks", "params (M)", "MACs (M)")]
    rows += [
        (name, str(len(space.lower(arch))), _millions(num_params(space, arch)), _millions(macs(space, arch)))
        for name, arch in space.named.items()
    ]
    lines += ["", f"  {len(space.named)} named archs", *(f"    {line}" for line in align(rows, "<>>>").splitlines())]
    return "\n".join(lines)


def block_table(space: SearchSpace, arch: Arch) -> str:
    """One line for each block in the order of execution, and the totals."""
    rows = [("block", "kind", "in", "out", "", "params", "MACs")]
    for block in space.lower(arch):
        shapes = (_shape(block.input_shape()), _shape(block.output_shape()))
        rows.append((block.name or "-", block.kind, *shapes, block.detail, f"{block.num_params:,}", f"{block.macs:,}"))
    rows.append(("total", "", "", "", "", f"{num_params(space, arch):,}", f"{macs(space, arch):,}"))
    return align(rows, "<<><<>>")


def summary(space: SearchSpace, arch: Arch) -> dict[str, Any]:
    """The network's costs and blocks as JSON."""
    blocks = [
        {
            "name": block.name,
            "kind": block.kind,
            "key": block.key,
            "input_shape": block.input_shape(),
            "output_shape": block.output_shape(),
            "num_params": block.num_params,
            "macs": block.macs,
        }
        for block in space.lower(arch)
    ]
    return {"num_params": num_params(space, arch), "macs": macs(space, arch), "blocks": blocks}


def arch_json(space: SearchSpace, arch: Arch) -> str:
    """The arch as JSON with one line a field, easy to edit."""
    fields = space.to_json(arch).items()
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in fields) + "\n}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    print(show(parse(Config, argv, "python -m search_spaces", __doc__ or "")))


if __name__ == "__main__":
    run(main)
