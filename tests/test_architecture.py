"""Who may import what (docs/compiler.md, "Layers"), and that nothing imports in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"dslc": ROOT / "dslc", "dslc_runtime": ROOT / "runtime" / "dslc_runtime"}

# A module belongs to the layer of its longest matching prefix and may import, of this project,
# its own layer's package and what is listed.
L0 = [
    "dslc.source",
    "dslc.diagnostics",
    "dslc._frozen",
    "dslc._lazy",
    "dslc._cache",
    "dslc._recursion",
]
LAYERS: dict[str, list[str]] = {
    "dslc._frozen": [],
    "dslc.source": ["dslc._frozen"],
    "dslc.diagnostics": ["dslc._frozen", "dslc.source"],
    "dslc._lazy": [],
    "dslc._cache": [],
    "dslc.syntax": L0,
    "dslc.ir": L0,
    "dslc.ops": [*L0, "dslc.ir"],
    "dslc.semantics": [*L0, "dslc.syntax", "dslc.ir", "dslc.ops"],
    "dslc.doc": [*L0, "dslc.syntax", "dslc.ir", "dslc.ops", "dslc.semantics"],
    "dslc.passes": [*L0, "dslc.ir", "dslc.ops"],
    "dslc.autodiff": [*L0, "dslc.ir", "dslc.ops"],
    "dslc.schedules": [*L0, "dslc.ir", "dslc.ops"],
    "dslc.lowering.rewrites": [*L0, "dslc.ir", "dslc.ops", "dslc.schedules"],
    "dslc.lowering.grouping": [*L0, "dslc.ir", "dslc.ops"],
    "dslc.lowering.memory": [*L0, "dslc.ir", "dslc.ops", "dslc.lowering.grouping"],
    "dslc.lowering.kernels": [
        *L0,
        "dslc.ir",
        "dslc.ops",
        "dslc.schedules",
        "dslc.lowering.rewrites",
        "dslc.lowering.grouping",
        "dslc.lowering.memory",
    ],
    "dslc.lowering": [*L0, "dslc.ir", "dslc.ops", "dslc.schedules"],
    "dslc.build": [
        *L0,
        "dslc.syntax",
        "dslc.ir",
        "dslc.ops",
        "dslc.semantics",
        "dslc.passes",
        "dslc.autodiff",
        "dslc.lowering",
        "dslc.schedules",
        "dslc_runtime",
    ],
    "dslc.onnx": [
        *L0,
        "dslc.syntax",
        "dslc.ir",
        "dslc.ops",
        "dslc.semantics",
        "dslc.passes",
        "dslc_runtime",
    ],
    "dslc.explain": [],
    "dslc.training": ["dslc", "dslc_runtime"],
    "dslc.cli": ["dslc", "dslc_runtime"],
    "dslc.highlight": [],
    "dslc.lsp": [*L0, "dslc.syntax", "dslc.ir", "dslc.ops", "dslc.semantics", "dslc.doc"],
    "dslc": ["dslc", "dslc_runtime"],
    "dslc_runtime": [],
}
TVM_LAYERS = ("dslc.lowering", "dslc.lowering.kernels", "dslc.schedules", "dslc.build")


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(p for p in parts if p != "__init__")
            found[name] = path
    return found


MODULES = modules()


def imports(path: Path, *, top_level: bool) -> set[str]:
    """Names imported by a file; `top_level` leaves out functions and `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                names = {f"{child.module}.{alias.name}" for alias in child.names}
                found.update(names)
                if not names <= MODULES.keys():  # else the package only stands before its modules
                    found.add(child.module)
            elif top_level and is_deferred(child):
                continue
            else:
                visit(child)

    visit(tree)
    return found


def is_deferred(node: ast.AST) -> bool:
    """Code that does not run at import."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def layer(name: str) -> str:
    return max(
        (key for key in LAYERS if name == key or name.startswith(key + ".")), key=len, default=""
    )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_imports_only_what_its_layer_may(name: str) -> None:
    own = layer(name)
    allowed = [own, *LAYERS[own]]
    for imported in imports(MODULES[name], top_level=False):
        if imported.split(".")[0] not in PACKAGES or imported not in MODULES:
            continue
        if imported == "dslc" and own != "dslc":
            continue  # `from dslc import source` names the package itself
        assert any(imported == a or imported.startswith(a + ".") for a in allowed), (
            f"{name} ({own}) imports {imported}"
        )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_tvm_is_named_in_the_back_end_only(name: str) -> None:
    named = {i.split(".")[0] for i in imports(MODULES[name], top_level=False)}
    assert "tvm" not in named or layer(name) in TVM_LAYERS
    assert "dslc" not in named or layer(name) != "dslc_runtime"


def test_no_import_cycles() -> None:
    graph = {
        name: {i for i in imports(path, top_level=True) if i in MODULES and i != name}
        for name, path in MODULES.items()
    }
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> None:
        if state.get(name) == 2:
            return
        assert state.get(name) != 1, " -> ".join([*trail[trail.index(name) :], name])
        state[name] = 1
        for target in sorted(graph[name]):
            # A package's front may name its own modules; they don't import it back.
            visit(target, [*trail, name])
        state[name] = 2

    for name in sorted(graph):
        visit(name, [])


def test_check_needs_neither_numpy_nor_tvm() -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dslc.semantics.check import check\n"
        "from dslc.source import SourceFile\n"
        f"path = Path({str(ROOT / 'examples/digits/digits.dl')!r})\n"
        "found = check(SourceFile(str(path), path.read_text()))\n"
        "assert not found, found\n"
        "bad = sorted({'numpy', 'tvm', 'onnx', 'ml_dtypes'} & set(sys.modules))\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_chooses_kernels_needs_no_tvm() -> None:
    """It is loaded by the process that builds, which shows it a CUDA driver before."""
    program = "import sys, dslc.build.driver; assert 'tvm' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
