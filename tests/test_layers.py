"""The drawing of the house, held: imports point down only, kernel and parts never meet."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

VOCABULARY = {"errors", "types", "boxes", "config", "files"}
MAY_IMPORT = {  # package below engine/ -> packages of engine it may import
    "vocabulary": VOCABULARY,
    "kernel": VOCABULARY | {"kernel"},
    "parts": VOCABULARY | {"parts"},
    "detect": VOCABULARY | {"kernel", "parts", "detect"},
    "export": VOCABULARY | {"kernel", "parts", "detect", "export"},
    "tracking": VOCABULARY | {"kernel", "tracking"},
    "stages": VOCABULARY | {"kernel", "parts", "detect", "export", "tracking", "stages"},
    "tuning": VOCABULARY | {"kernel", "parts", "detect", "tracking", "stages", "tuning"},
}
THIRD_PARTY_HOME = {  # package -> the only places that import it
    "prefect": ("flows",),
    "mlflow": ("flows", "engine/tracking"),
    "dvc": ("flows", "engine/tracking"),
    "optuna": ("flows", "engine/tuning"),
    "distributed": ("flows",),
    "prefect_dask": ("flows",),
}


def imports(path: Path) -> set[str]:
    """Every absolute module name imported anywhere in the file, functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def layer_of(path: Path) -> str:
    part = path.relative_to(ROOT / "engine").parts[0].removesuffix(".py")
    return "vocabulary" if part in VOCABULARY else part


@pytest.mark.parametrize("path", sources("engine"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    layer = layer_of(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("engine.") and name.count(".") >= 1}
    packages = {p.name.removesuffix(".py") for p in (ROOT / "engine").iterdir()}
    used &= packages
    if layer in MAY_IMPORT:
        assert used <= MAY_IMPORT[layer], f"{path} may not import engine.{sorted(used - MAY_IMPORT[layer])}"
    if layer not in {"cli", "__main__"}:
        assert not any(name.split(".")[0] == "flows" for name in imports(path)), f"{path} imports flows"


@pytest.mark.parametrize("path", sources("engine") + sources("flows"), ids=lambda p: str(p.relative_to(ROOT)))
def test_orchestrators_and_trackers_stay_at_home(path):
    where = path.relative_to(ROOT).as_posix()
    for name in {n.split(".")[0] for n in imports(path)} & THIRD_PARTY_HOME.keys():
        assert where.startswith(THIRD_PARTY_HOME[name]), f"{where} imports {name}"


def test_vocabulary_needs_no_heavy_import():
    allowed = {*sys.stdlib_module_names, "numpy", "torch", "yaml", "pydantic", "engine"}
    for path in sources("engine"):
        if layer_of(path) == "vocabulary":
            assert {n.split(".")[0] for n in imports(path)} <= allowed, path
