"""Imports go one way and in no circle; what some machines lack is imported only where it is used; modules are small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
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
# Each package imports only those below it; packages on one line do not import each other.
LAYERS: dict[str, Sequence[set[str]]] = {
    "nas": (
        {"proving"},
        {"comparison", "pruning", "reporting"},
        {"inspection"},
        {"searching"},
        {"supernets", "instance_segmentation"},
        {"detection", "segmentation"},
        {"dense"},
        {"exporting"},
        {"training"},
        {"evaluation"},
        {"networks"},
        {"runs"},
        {"scenes"},
        {"data"},
        {"distributed", "objective"},
    ),
    "latency_lut": ({"profiling"}, {"measurement"}, {"tables"}, {"backends"}),
}
IMPORT_WHERE_USED = {"coremltools", "faster_coco_eval", "fvcore", "onnxruntime", "optuna", "plotly", "ray", "sklearn"}
IMPORT_WHERE_USED |= {"ai_edge_litert", "executorch", "litert_torch", "openvino", "pillow_heif", "torch_pruning", "tvm"}
IMPORT_WHERE_USED |= {"fcntl", "grp", "pwd", "resource", "termios"}  # Windows has none of them
TRAINING = {"torch", "timm", "torchvision", "faster_coco_eval"}
MAX_LINES, MAX_MODULES = 400, 16
SAMPLES = ROOT / "nas/exporting/samples"  # programs for others, no modules of ours

Graph = Mapping[str, set[str]]  # of modules: what each imports, also in its functions


def imported(node: ast.AST) -> list[str]:
    """The full names that an import statement imports; none of another node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def packages(nodes: Iterator[ast.AST]) -> set[str]:
    """The top-level packages that are imported."""
    return {name.partition(".")[0] for node in nodes for name in imported(node)}


def on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not in a function, not for type checkers only."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from on_import(child)


# ---- what is forbidden, as functions of sources: a line for each that is found


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """What each module imports of the others, by their names, also inside functions and for type checkers."""

    def module(name: str) -> str | None:
        return next((known for known in (name, name.rpartition(".")[0]) if known in sources), None)

    names = {m: [n for node in ast.walk(ast.parse(text)) for n in imported(node)] for m, text in sources.items()}
    return {m: {found for name in full if (found := module(name))} for m, full in names.items()}


def packages_upwards(graph: Graph) -> list[str]:
    arrows = {(a, b) for a, others in graph.items() for b in others if top(a) != top(b)}
    return [f"{a} imports {b}" for a, b in sorted(arrows) if top(b) not in MAY_IMPORT[top(a)]]


def layers_upwards(graph: Graph, package: str) -> list[str]:
    """Modules of a layer that import one of the same or of a higher layer, or something in no layer."""
    layer = {name: number for number, names in enumerate(LAYERS[package]) for name in names}
    found = []
    for importer, others in sorted(graph.items()):
        a = part(importer, package)
        for other in sorted(others):
            b = part(other, package)
            if a in layer and b and a != b and (b not in layer or layer[b] <= layer[a]):
                found.append(f"{importer} imports {other}")
    return found


def top(module: str) -> str:
    return module.partition(".")[0]


def part(module: str, package: str) -> str:
    """The second name of a module in the package; empty for others."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == package else ""


def imported_commands(graph: Graph, sources: Mapping[str, str]) -> list[str]:
    commands = {module for module, text in sources.items() if 'if __name__ == "__main__":' in text}
    return [f"{a} imports {b}" for a, others in sorted(graph.items()) for b in sorted(others & commands)]


def circle(graph: Graph) -> list[str]:
    """The modules of a circle; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def too_large(lines: Mapping[Path, int]) -> list[str]:
    """Modules of too many lines, and folders of too many modules (`__init__` aside)."""
    folders = Counter(file.parent for file in lines if file.name != "__init__.py")
    long = [f"{file} has {count} lines" for file, count in lines.items() if count > MAX_LINES]
    return long + [f"{folder} has {count} modules" for folder, count in folders.items() if count > MAX_MODULES]


# ---- this project


def read(folder: str) -> dict[str, str]:
    """The source of each module of the folder, by its name."""
    sources = {}
    for file in sorted(set((ROOT / folder).rglob("*.py")) - set(SAMPLES.glob("*.py"))):
        parts = file.relative_to(ROOT).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text()
    return sources


SOURCES = {name: source for folder in MAY_IMPORT for name, source in read(folder).items()}
GRAPH = import_graph(SOURCES)


def test_packages_import_what_is_below_them() -> None:
    assert not packages_upwards(GRAPH)
    assert not [name for name, source in SOURCES.items() if "tests" in packages(ast.walk(ast.parse(source)))]


@pytest.mark.parametrize("package", LAYERS)
def test_layers_import_what_is_below_them(package: str) -> None:
    folders = {path.parent.name for path in (ROOT / package).glob("*/*.py")}
    assert folders == set().union(*LAYERS[package])
    assert not layers_upwards(GRAPH, package)


def test_nothing_imports_a_command() -> None:
    assert not imported_commands(GRAPH, SOURCES)


def test_imports_make_no_circle() -> None:
    assert not circle(GRAPH)


def test_modules_and_folders_are_small() -> None:
    files = (file for folder in MAY_IMPORT for file in (ROOT / folder).rglob("*.py"))
    assert not too_large({file.relative_to(ROOT): len(file.read_text().splitlines()) for file in files})


@pytest.mark.parametrize("module", SOURCES)
def test_optional_packages_are_imported_where_used(module: str) -> None:
    assert not packages(on_import(ast.parse(SOURCES[module]))) & IMPORT_WHERE_USED


@pytest.mark.parametrize(
    "module",
    ["search_spaces.__main__", "latency_lut.build", "latency_lut.measure", "latency_lut.backends", "nas.search"],
)
def test_runs_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({TRAINING!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scripts_that_import_others_are_called_as_modules() -> None:
    """`python scripts/x.py` has scripts/ on its path, not the folder above it."""
    files = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("scripts/*.py"))
    called = set(re.findall(r"python\s+scripts/(\w+)\.py", " ".join(file.read_text() for file in files)))
    assert {"bench_lut", "bench_supernet"} <= called
    for name in called:
        assert "scripts" not in packages(ast.walk(ast.parse(SOURCES[f"scripts.{name}"])))


def assembled(source: str) -> list[int]:
    """Lines of a module that make Markup of what is not a template written there; `page.html` escapes the rest."""
    tree = ast.parse(source)
    constant = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return [
        call.lineno
        for call in calls
        if (name := ast.unparse(call.func)) == "Markup"
        or (
            name == "html"
            and not isinstance(call.args[0], ast.Constant)
            and not (isinstance(call.args[0], ast.Name) and call.args[0].id in constant)
        )
    ]


@pytest.mark.parametrize("module", [name for name, source in SOURCES.items() if "command.page import" in source])
def test_pages_are_made_of_templates(module: str) -> None:
    assert not assembled(SOURCES[module])


# ---- the checks see what they forbid


def test_assembled_markup_is_seen() -> None:
    assert assembled('soft = "<p>{}</p>"\nhtml(soft, x)\nhtml("<p>{}</p>", x)\nhtml("<br>" "<p>")\n') == []
    assert assembled('html(f"<p>{x}</p>")\nMarkup(x)\nhtml(x)\nhtml("<p>" + x)\n') == [1, 2, 3, 4]


def test_imports_are_found_where_they_are() -> None:
    source = (
        "import ray.tune\nif TYPE_CHECKING:\n    import optuna\ndef f():\n    from plotly import io\n    import nas\n"
    )
    assert packages(on_import(ast.parse(source))) == {"ray"}
    assert packages(ast.walk(ast.parse(source))) == {"ray", "optuna", "plotly", "nas"}


BROKEN = {
    "latency_lut": "",
    "latency_lut.tables.table": "def f():\n    from nas.search import main\n",
    "nas": "",
    "nas.search": 'from nas.searching import search\nif __name__ == "__main__":\n    pass\n',
    "nas.data": "",
    "nas.data.splits": "import nas.training.trainer\n",
    "nas.searching.search": "if TYPE_CHECKING:\n    from nas.data.splits import Splits\n",
    "nas.training.trainer": "from nas.data import Data\nfrom nas.searching.search import Config\nimport nas.odd\n",
    "nas.odd": "",
}


def test_broken_imports_are_seen() -> None:
    graph = import_graph(BROKEN)
    assert graph["nas.training.trainer"] == {"nas.data", "nas.searching.search", "nas.odd"}
    assert packages_upwards(graph) == ["latency_lut.tables.table imports nas.search"]
    assert layers_upwards(graph, "nas") == [
        "nas.data.splits imports nas.training.trainer",
        "nas.training.trainer imports nas.odd",
        "nas.training.trainer imports nas.searching.search",
    ]
    assert imported_commands(graph, BROKEN) == ["latency_lut.tables.table imports nas.search"]
    assert set(circle(graph)) == {"nas.data.splits", "nas.training.trainer", "nas.searching.search"}


def test_large_modules_and_folders_are_seen() -> None:
    many = {Path(f"nas/m{i}.py"): 1 for i in range(17)}
    assert not too_large({**dict(list(many.items())[1:]), Path("nas/__init__.py"): 400})
    assert too_large({**many, Path("a/b.py"): 401}) == ["a/b.py has 401 lines", "nas has 17 modules"]
