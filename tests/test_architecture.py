"""Imports go one way, and what some machines lack is imported only where it is used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT: dict[str, set[str]] = {
    "search_spaces": set(),
    "supernet": {"search_spaces"},
    "latency_lut": {"search_spaces"},
    "nas": {"search_spaces", "supernet", "latency_lut"},
    "scripts": {"search_spaces", "supernet", "latency_lut", "nas"},
}
IMPORT_WHERE_USED = {"coremltools", "fvcore", "onnxruntime", "optuna", "plotly", "ray", "sklearn"}
IMPORT_WHERE_USED |= {"ai_edge_litert", "executorch", "litert_torch", "openvino", "torch_pruning"}

FILES = sorted(file for folder in MAY_IMPORT for file in (ROOT / folder).rglob("*.py"))


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The top-level name of every package imported."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module).partition(".")[0]


def on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not in a function, not for type checkers only."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from on_import(child)


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_go_one_way(file: Path) -> None:
    folder = file.relative_to(ROOT).parts[0]
    others = set(imports(ast.walk(ast.parse(file.read_text())))) & (MAY_IMPORT.keys() | {"tests"}) - {folder}
    assert others <= MAY_IMPORT[folder]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_optional_packages_are_imported_where_used(file: Path) -> None:
    assert not set(imports(on_import(ast.parse(file.read_text())))) & IMPORT_WHERE_USED


@pytest.mark.parametrize(
    "module",
    ["search_spaces.__main__", "latency_lut.build", "latency_lut.measure", "latency_lut.backends", "nas.search"],
)
def test_runs_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'timm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scripts_that_import_others_are_called_as_modules() -> None:
    """`python scripts/x.py` has scripts/ on its path, not the folder above it."""
    files = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("scripts/*.py"))
    called = set(re.findall(r"python\s+scripts/(\w+)\.py", " ".join(file.read_text() for file in files)))
    assert {"run", "bench_lut"} <= called
    for name in called:
        assert "scripts" not in set(imports(ast.walk(ast.parse((ROOT / f"scripts/{name}.py").read_text()))))


def test_the_checks_see_what_they_forbid() -> None:
    source = (
        "import ray.tune\nif TYPE_CHECKING:\n    import optuna\ndef f():\n    from plotly import io\n    import nas\n"
    )
    assert set(imports(on_import(ast.parse(source)))) == {"ray"}
    assert set(imports(ast.walk(ast.parse(source)))) == {"ray", "optuna", "plotly", "nas"}
