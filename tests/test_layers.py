"""The drawing of the house, held: imports point down only, file by file, and nowhere in a ring.

Every import counts, also those inside a function or behind TYPE_CHECKING.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

VOCABULARY = {
    "errors",
    "types",
    "boxes",
    "files",
    "locks",
    "version",
    "plugins",
    "signals",
    "web",
    "code",
    "difference",
    "markdown",
    "moved",
}
FLOORS = (  # from the ground up: a room imports its own files and rooms of lower floors
    VOCABULARY,
    {"settings"},
    {"model_formats", "gates"},  # tables that the configuration checks names against
    {"config"},
    {"core", "data", "metrics", "models"},
    {"plots", "datasets", "project"},
    {"versioning", "error_analysis"},
    {"tracking"},
    {"detect"},
    {"registry"},  # a model of weights is served by what runs detectors
    {"export", "lineage", "comparison"},
    {"labelling", "report"},
    {"stages"},
    {"hpo"},
    {"yolo"},
    {"flows"},
    {"cli"},
    {"__main__", ""},  # `engine` itself offers YOLO
)
THIRD_PARTY_HOME = {  # package -> the only places that import it
    "prefect": ("flows",),
    "mlflow": ("flows", "engine/tracking", "engine/registry", "engine/lineage"),
    "dvc": ("flows", "engine/versioning"),
    "trackers": ("engine/detect",),
    "supervision": ("engine/detect",),
    "optuna": ("flows", "engine/hpo"),
    "distributed": ("flows",),
    "prefect_dask": ("flows",),
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    return (
        path.relative_to(ROOT)
        .with_suffix("")
        .as_posix()
        .replace("/", ".")
        .removesuffix(".__init__")
    )


FILES = {module_of(path): path for path in sources("engine") + sources("flows")}


def imports(path: Path) -> set[str]:
    """Every absolute module name imported anywhere in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & FILES.keys() or {node.module or ""}
    return found


IMPORTS = {module: imports(path) for module, path in FILES.items()}


def room_of(module: str) -> str:
    top, _, rest = module.partition(".")
    return top if top == "flows" else rest.partition(".")[0]


def floor_of(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room_of(module) in rooms)


def test_every_room_has_a_floor():
    assert {room_of(module) for module in FILES} <= set().union(*FLOORS)


def test_imports_point_down():
    wrong = []
    for module, used in IMPORTS.items():
        for other in used & FILES.keys():
            same_room = room_of(other) == room_of(module)
            if (
                not same_room
                and room_of(module) not in VOCABULARY
                and floor_of(other) >= floor_of(module)
            ):
                wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_vocabulary_imports_vocabulary_alone():
    wrong = [
        f"{module} imports {other}"
        for module, used in IMPORTS.items()
        if room_of(module) in VOCABULARY
        for other in used & FILES.keys()
        if room_of(other) not in VOCABULARY
    ]
    assert not wrong, "\n".join(wrong)


def rings() -> list[list[str]]:
    """Groups of files that import each other, directly or around (Tarjan's strongly connected
    components).
    """
    index, low, stack, found = {}, {}, [], []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(IMPORTS[module] & FILES.keys() - {module}):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            ring = stack[stack.index(module) :]
            del stack[-len(ring) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for module in sorted(FILES):
        if module not in index:
            visit(module)
    return found


def test_no_ring_anywhere():
    found = rings()
    assert not found, "\n".join("ring: " + ", ".join(ring) for ring in found)


def test_orchestrators_and_trackers_stay_at_home():
    wrong = []
    for module, used in IMPORTS.items():
        where = FILES[module].relative_to(ROOT).as_posix()
        for name in {n.split(".")[0] for n in used} & THIRD_PARTY_HOME.keys():
            if not where.startswith(THIRD_PARTY_HOME[name]):
                wrong.append(f"{where} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_vocabulary_needs_no_heavy_import():
    allowed = {*sys.stdlib_module_names, "numpy", "torch", "yaml", "pydantic", "filelock", "engine"}
    for module, used in IMPORTS.items():
        if room_of(module) in VOCABULARY | {"config"}:
            assert {n.split(".")[0] for n in used} <= allowed, module
