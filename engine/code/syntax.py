"""One module's source reduced to what it does: two texts with the same digest compute the same.

What drops out: comments, formatting, docstrings, annotations (of classes only where nothing reads
them), and messages (texts of errors, log lines, `assert`, `print`, `description=` of a setting,
details of findings, `title=` of a table's entry) with the helpers, locals and imports that serve
messages alone. Where it is not certain that something is a message, it stays: a stage that runs
needlessly costs time, one that does not run leaves a wrong model behind. The one promise asked of
the code in return: computing a message, or the text of a log line, changes nothing.

The tree is written out here and not by `ast.dump`, whose form differs between versions of Python:
the team's digests must agree.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

RULES = 3  # part of every digest: raise it when the rules below change

# Exceptions whose arguments are their message and nothing else.
MESSAGE_ERRORS = {
    *("EngineError", "ConfigError", "DataError", "CheckpointError", "TrainingError"),
    *("ExportError", "WorkspaceError"),
    *("ValueError", "TypeError", "RuntimeError", "NotImplementedError", "AttributeError"),
}
LOGGERS = {"log", "logger", "_log", "_logger", "logging", "LOGGER"}
LOG_CALLS = {"debug", "info", "warning", "error", "exception", "critical", "log", "warn"}
SETTINGS = {"Field", "_f", "add_argument"}  # calls whose `description=` and `help=` are for readers
# Fields of the entries of tables that are for readers, as long as no module asks for one of them
# outside a message: `ReaderKind(title="Pascal VOC")`.
SHOWN_FIELDS = {"title", "about", "looks_for", "read_as"}
PURE_FUNCTIONS = {
    *("abs", "all", "any", "bool", "dict", "enumerate", "float", "format", "frozenset", "getattr"),
    *("hasattr", "int", "isinstance", "len", "list", "map", "max", "min", "range", "repr", "round"),
    *("reversed", "set", "sorted", "str", "sum", "tuple", "type", "zip"),
    *("nearest", "nearest_name", "describe_error", "in_words", "cause_of"),  # engine.errors, files
}
PURE_METHODS = {
    *("as_posix", "capitalize", "count", "endswith", "format", "get", "items", "join", "keys"),
    *("lower", "lstrip", "partition", "relative_to", "removeprefix", "removesuffix", "replace"),
    *("rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title"),
    *("upper", "values", "most_common"),
}
MESSAGE_CLASSES = {"OldName"}  # classes of ours whose arguments are for readers alone
HARMLESS_DECORATORS = {"staticmethod", "classmethod", "property", "cache", "lru_cache"}
# Decorators that read no annotations. Any other one may choose by them what to call or convert
# (`@singledispatch` with `@name.register`, `@validate_call`, `@torch.jit.script`).
PLAIN_DECORATORS = {
    *HARMLESS_DECORATORS,
    *("cached_property", "setter", "deleter", "abstractmethod", "contextmanager"),
    *("asynccontextmanager", "wraps", "override", "final", "overload", "no_grad"),
    *("inference_mode", "enable_grad"),
}
PLAIN_CLASS_DECORATORS = {"dataclass", "total_ordering", "final", "runtime_checkable"}
# module -> classes that read no annotations of a class derived from them.
# tests/code/test_syntax.py holds ours against the classes themselves.
PLAIN_BASES = {
    "abc": {"ABC"},
    "typing": {"Protocol", "Generic"},
    "torch.nn": {"Module"},
    "engine.core.predictor": {"BasePredictor"},
    "engine.core.run_view": {"RunView"},
    "engine.core.task": {"TrainingTask"},
    "engine.core.trainer": {"BaseTrainer"},
    "engine.core.validator": {"BaseValidator"},
    "engine.detect": {"DetectionTrainer"},
    "engine.detect.trainer": {"DetectionTrainer"},
    "engine.detect.validator": {"DetectionValidator"},
    "engine.models.family": {"Criterion", "Family"},
    "engine.models.registry": {"Criterion", "Family"},
}
SECTION_BASES = {"BaseModel", "Frozen"}  # of the configuration
IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(:[A-Za-z_]\w*)?\Z")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Import:
    """`from module import name as alias`, or `import module` with an empty name. A relative module
    begins with its dots.
    """

    module: str
    name: str = ""
    alias: str = ""


@dataclass(frozen=True)
class Source:
    """What one module does, and whom it needs for that."""

    digest: str  # 16 hex digits; empty: the module does nothing but import
    whole: str  # the same with everything that only messages use
    imports: tuple[Import, ...]  # anywhere in it, functions included, TYPE_CHECKING not
    mentions: tuple[str, ...]  # texts that may name a module: "engine.models.yolov8:Family"
    left_out: tuple[str, ...]  # names of its own, and SHOWN_FIELDS, that only messages use
    used: tuple[str, ...]  # names it uses otherwise that may be another module's
    needed: tuple[Import, ...] = ()  # of a package: imports that its own statements use
    public: tuple[str, ...] = ()  # names in `__all__`; "*": any, it is put together when it runs


class SourceError(ValueError):
    """The file is no Python."""


def read_source(
    text: str,
    is_package: bool = False,
    keep: frozenset[str] = frozenset(),
    without: frozenset[str] = frozenset(),
) -> Source:
    """Reduce the text of a module.

    is_package: of an `__init__.py`, whose imports are its offer unless its own statements use them.
    keep: names that count although only messages here use them, and `__all__`, which else does
    not. without: definitions that nobody uses for a result, `name`, `Class.name` or `*.name` (a
    method of any class); what only they import does not count.

    Raises:
        SourceError: not valid Python; with the line.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise SourceError(str(error)) from None
    public = _public(tree)
    if without:
        _drop_definitions(tree, without)
    tree = _Plain(keep).visit(tree)
    imports = tuple(dict.fromkeys(_imports(tree)))
    mentions = tuple(sorted({t for t in _texts(tree) if MODULE.match(t)}))
    needed: tuple[Import, ...] = ()
    if is_package:
        _drop_offers(tree)
        needed = tuple(dict.fromkeys(_imports(tree)))
    whole = _digest(tree)
    before = _Uses.of(tree)
    fields = _silence(tree, keep)
    left_out = fields | _sweep(tree, before, keep)
    used = tuple(sorted(_used_of_others(tree)))
    return Source(
        _digest(tree), whole, imports, mentions, tuple(sorted(left_out)), used, needed, public
    )


def constant_of(text: str, name: str) -> object:
    """The plain value that a module gives to `name` at its top level, None where it gives none."""
    for node in ast.parse(text).body:
        if _bound(node) == {name} and isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            return ast.literal_eval(node.value)
    return None


def read_definitions(text: str, names: set[str]) -> tuple[str, tuple[Import, ...]]:
    """What the top-level functions, classes and values `names` of a module do, with all that they
    use of it: digest, and the imports they need.

    A pydantic section counts by its public methods: the values of its settings count elsewhere.
    """
    tree = ast.parse(text)
    tree = _Plain().visit(tree)
    _silence(tree, keep=frozenset(SHOWN_FIELDS))
    bound = {name: node for node in tree.body for name in _bound(node)}
    imports = {found.alias: found for found in _imports(tree) if found.name}
    sections: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = {_last_name(base) for base in node.bases}
            if bases & (SECTION_BASES | sections):
                sections.add(node.name)
                node.body = [n for n in node.body if isinstance(n, Function) and n.name[0] != "_"]
    waiting, reached = set(names), set()
    while waiting:
        name = waiting.pop()
        if name in bound and name not in reached:
            reached.add(name)
            waiting |= set(_used(bound[name]))
        elif name in imports:
            reached.add(name)
        if not waiting:  # a statement that changes a class from outside: add_implicit_resolver
            waiting = {
                used
                for node in tree.body
                if isinstance(node, ast.Expr) and reached & set(_used(node))
                for used in _used(node)
            } - reached
            waiting &= bound.keys() | imports.keys()
    body = [
        node
        for node in tree.body
        if _bound(node) & reached or (isinstance(node, ast.Expr) and reached & set(_used(node)))
    ]
    kept = ast.Module(body=body, type_ignores=[])
    return _digest(kept), tuple(imports[name] for name in sorted(reached & imports.keys()))


class _Plain(ast.NodeTransformer):
    """Docstrings, annotations of functions and locals, what only type checkers see: all gone, but
    annotations that a decorator may read. `__all__` stays where it is among the names to keep.
    """

    def __init__(self, keep: frozenset[str] = frozenset()):
        self.dropped = {"__all__", "__doc__"} - keep
        self.read_by_class = False  # whether a decorator of the class around may read annotations

    def _body(self, node: ast.AST, in_class: bool = False) -> ast.AST:
        self.generic_visit(node)
        node.body = [
            child
            for child in node.body
            if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant))
        ]
        if not in_class:
            node.body = [_without_annotation(child) for child in node.body]
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and not isinstance(node, ast.ClassDef):
                setattr(node, field, [_without_annotation(child) for child in block])
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self._body(node)
        node.body = [n for n in node.body if not _binds_only(n, self.dropped)]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer = self.read_by_class
        self.read_by_class = not _decorated_by(node, PLAIN_CLASS_DECORATORS)
        self._body(node, in_class=True)
        self.read_by_class = outer
        return node

    def _function(self, node: Function) -> ast.AST:
        node.type_comment = None
        if not self.read_by_class and _decorated_by(node, PLAIN_DECORATORS):
            node.returns = None
            for arg in _arguments(node.args):
                arg.annotation = arg.type_comment = None
        outer, self.read_by_class = self.read_by_class, False
        self._body(node)
        self.read_by_class = outer
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.AST]:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            return [self.visit(child) for child in node.orelse]
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node


def _decorated_by(node: Function | ast.ClassDef, names: set[str]) -> bool:
    """Whether all decorators are among these: `@name`, `@module.name` or `@name(...)`."""
    decorators = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    return all(_last_name(decorator) in names for decorator in decorators)


def _arguments(node: ast.arguments) -> list[ast.arg]:
    given = [*node.posonlyargs, *node.args, node.vararg, *node.kwonlyargs, node.kwarg]
    return [arg for arg in given if arg is not None]


def _without_annotation(node: ast.AST) -> ast.AST:
    if not isinstance(node, ast.AnnAssign):
        return node
    if node.value is None:
        return ast.copy_location(ast.Pass(), node)
    return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)


def _silence(tree: ast.Module, keep: frozenset[str]) -> set[str]:
    """Take messages out, in place. Returns the SHOWN_FIELDS that were taken out with them."""
    silent = _Silent(tree)
    silent.visit(tree)
    if not silent.shows:
        return set()
    asked = _used(tree)
    shown = _Shown({field for field in SHOWN_FIELDS - keep if not asked[field]})
    shown.visit(tree)
    return shown.found


class _Silent(ast.NodeTransformer):
    """Messages are gone: `raise DataError(f"...")` is `raise DataError()`, log lines are nothing.

    Where an exception may carry more than a message, only its texts are gone. So are annotations of
    classes where nothing reads them.
    """

    def __init__(self, tree: ast.Module):
        self.texts = _constant_texts(tree)
        self.origin = {found.alias: found.module for found in _imports(tree) if found.name}
        self.plain: set[str] = set()  # classes of this module that read no annotations
        self.shows = False  # whether a call gives one of SHOWN_FIELDS

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        is_plain = not node.decorator_list and not node.keywords
        if is_plain and all(map(self._reads_none, node.bases)):
            self.plain.add(node.name)
            node.body = [_without_annotation(child) for child in node.body]
        return node

    def _reads_none(self, base: ast.expr) -> bool:
        if isinstance(base, ast.Subscript):
            base = base.value
        if not isinstance(base, ast.Name):
            return ast.unparse(base) == "nn.Module" and self.origin.get("nn") == "torch"
        return base.id in self.plain or base.id in PLAIN_BASES.get(self.origin.get(base.id, ""), ())

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.exc, ast.Call):
            node.exc.args = [arg for arg in node.exc.args if not _is_text(arg)]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        node.msg = None
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        self.generic_visit(node)
        return ast.Pass() if _is_log_line(node.value) else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        self.shows = self.shows or any(k.arg in SHOWN_FIELDS for k in node.keywords)
        name = _last_name(node.func)
        if name in MESSAGE_ERRORS | MESSAGE_CLASSES and isinstance(node.func, ast.Name):
            node.args, node.keywords = [], []
        elif name in SETTINGS:
            node.keywords = [k for k in node.keywords if k.arg not in {"description", "help"}]
        elif name == "add" and _last_name(getattr(node.func, "value", None)).endswith("findings"):
            if len(node.args) > 2 and _is_readable(node.args[2]):
                node.args[2] = ast.Constant(value=None)
            node.keywords = [
                k for k in node.keywords if k.arg != "detail" or not _is_readable(k.value)
            ]
        elif name == "Kind" and isinstance(node.func, ast.Name):  # the table of findings
            node.args = [self._marked(a) if i != 1 else a for i, a in enumerate(node.args)]
            for keyword in node.keywords:
                if keyword.arg != "default":  # the policy, also in second place
                    keyword.value = self._marked(keyword.value)
        return node

    def _marked(self, node: ast.expr) -> ast.expr:
        """A text for readers, of which only counts whether there is one."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return ast.Constant(value=bool(node.value))
        if isinstance(node, ast.Name) and node.id in self.texts:
            return ast.Constant(value=bool(self.texts[node.id]))
        return node


class _Shown(ast.NodeTransformer):
    """Texts that an entry of a table has for readers are gone: fields of these names, given to a
    class.
    """

    def __init__(self, fields: set[str]):
        self.fields = fields
        self.found: set[str] = set()  # those of them that there were

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id[0].isupper():
            gone = {k.arg for k in node.keywords if k.arg in self.fields and _is_text(k.value)}
            node.keywords = [k for k in node.keywords if k.arg not in gone]
            self.found |= gone
        return node


def _constant_texts(tree: ast.Module) -> dict[str, str]:
    """Names that the module gives a text, once and at its top level."""
    found: dict[str, str] = {}
    stored = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and _stores(n))
    for node in tree.body:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target = node.targets[0]
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts))
        for name, value in pairs:
            if isinstance(name, ast.Name) and stored[name.id] == 1:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found[name.id] = value.value
    return found


def _is_readable(node: ast.expr) -> bool:
    return not isinstance(node, ast.Starred) and _is_pure(node, {})


def _is_text(node: ast.expr) -> bool:
    """Whether an expression is a piece of text for certain."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add | ast.Mod) and _is_text(node.left)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _is_log_line(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call) or _works(node):
        return False
    function = node.func
    if isinstance(function, ast.Name):
        # print(..., file=report) writes a result
        return function.id == "print" and all(
            k.arg != "file" or ast.unparse(k.value) in {"sys.stderr", "sys.stdout"}
            for k in node.keywords
        )
    if not isinstance(function, ast.Attribute) or function.attr not in LOG_CALLS:
        return False
    owner = _last_name(function.value)
    return owner in LOGGERS or (owner == "warnings" and function.attr == "warn")


def _works(node: ast.AST) -> bool:
    """Whether an expression binds a name, waits or yields."""
    kinds = ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom
    return any(isinstance(inner, kinds) for inner in ast.walk(node))


def _last_name(node: ast.AST | None) -> str:
    return (
        node.id
        if isinstance(node, ast.Name)
        else node.attr
        if isinstance(node, ast.Attribute)
        else ""
    )


def _sweep(tree: ast.Module, before: _Uses, keep: frozenset[str]) -> set[str]:
    """Remove what only messages used, until nothing more falls. `before`: uses of each name with
    them. Returns the names of functions, methods and values that fell.
    """
    left_out: set[str] = set()
    while True:
        counts = _used(tree)
        helpers = _private_functions(tree)
        sweeper = _Sweeper(before, counts, helpers, keep)
        sweeper.visit(tree)
        left_out |= sweeper.left_out
        if not sweeper.changed:
            return left_out


class _Uses(NamedTuple):
    """How often names are used: in any way, and as plain names."""

    anyhow: Counter[str]
    by_name: Counter[str]

    @classmethod
    def of(cls, tree: ast.AST) -> _Uses:
        names = (n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not _stores(n))
        return cls(_used(tree), Counter(names))


class _Sweeper(ast.NodeTransformer):
    def __init__(
        self,
        before: _Uses,
        now: Counter[str],
        helpers: dict[str, Function],
        keep: frozenset[str],
    ):
        self.before, self.now, self.helpers, self.keep = before, now, helpers, keep
        self.left_out: set[str] = set()
        self.changed = False
        self.function: Function | None = None  # the outermost one around
        self.live: set[str] = set()  # names whose value it needs, or has in common with others

    def _is_mute(self, name: str) -> bool:
        """Used before, and now no more. A name that nobody here ever used is for others."""
        return self.before.anyhow[name] > 0 and self.now[name] == 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                kept = [child for child in block if not self._falls(child, node)]
                self.changed |= len(kept) != len(block)
                setattr(node, field, kept)
        return node

    def _falls(self, node: ast.AST, parent: ast.AST) -> bool:
        if isinstance(node, ast.Pass):
            return True
        if isinstance(node, ast.If):
            return not node.body and not node.orelse and _is_pure(node.test, self.helpers)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return not node.names
        if isinstance(parent, ast.Module | ast.ClassDef):
            return self._falls_as_definition(node, isinstance(parent, ast.Module))
        return self._falls_as_local(node)

    def _falls_as_definition(self, node: ast.AST, at_top: bool) -> bool:
        names = _bound(node)
        if (
            not names
            or names & self.keep
            or not all(self._may_fall(n, node, at_top) for n in names)
        ):
            return False
        if isinstance(node, Function):
            removable = all(_last_name(d) in HARMLESS_DECORATORS for d in node.decorator_list)
        else:
            removable = _binds_plainly(node) and _is_pure(node.value, self.helpers)
        if removable:
            self.left_out |= names
        return removable

    def _may_fall(self, name: str, node: ast.AST, at_top: bool) -> bool:
        """Whether only messages of this module used a name that the module defines.

        Of a public one they must have used it as what it is: elsewhere others may call a method of
        that name. Whether another module imports it is for the caller to see (`left_out`).
        """
        if name.startswith("__"):
            return False
        is_public = not name.startswith("_")
        if is_public and not (at_top and self.before.by_name[name]):
            return False
        if not self.now[name] or not isinstance(node, Function):
            return self._is_mute(name)
        itself = _used(node)[name]
        return self.before.anyhow[name] > itself == self.now[name]

    def _falls_as_local(self, node: ast.AST) -> bool:
        return (
            self.function is not None
            and _binds_plainly(node)
            and not _bound(node) & self.live
            and _is_pure(node.value, self.helpers)
        )

    def _function(self, node: Function) -> ast.AST:
        outer = self.function
        if outer is None:
            self.function, self.live = node, _live_in(node, self.helpers)
        self.generic_visit(node)
        self.function = outer
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        if node.name and not any(
            isinstance(inner, ast.Name) and inner.id == node.name for inner in ast.walk(node)
        ):
            node.name = None
        return node

    def _import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        kept = [a for a in node.names if not self._is_mute((a.asname or a.name).split(".")[0])]
        self.changed |= len(kept) != len(node.names)
        node.names = kept
        return node

    visit_Import = visit_ImportFrom = _import


def _live_in(function: Function, helpers: dict[str, Function]) -> set[str]:
    """Names that a function reads for more than to make values that nobody reads."""
    made = [
        node
        for node in ast.walk(function)
        if _binds_plainly(node) and _is_pure(node.value, helpers)
    ]
    if not made:
        return set()
    inside = {id(inner) for node in made for inner in ast.walk(node)}
    live = _read_in(node for node in ast.walk(function) if id(node) not in inside)
    reads = [(_bound(node), _read_in(ast.walk(node))) for node in made]
    while found := {n for names, read in reads if names & live for n in read} - live:
        live |= found
    return live


def _read_in(nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            found.update(node.names)
    return found


def _bound(node: ast.AST) -> set[str]:
    """Names that a statement defines: of a function, a class, or plain values."""
    if isinstance(node, Function | ast.ClassDef):
        return {node.name}
    return {inner.id for inner in _targets(node) if isinstance(inner, ast.Name)}


def _binds_plainly(node: ast.AST) -> bool:
    """Whether a statement gives values to plain names and to nothing else."""
    return isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) for t in _targets(node))


def _targets(node: ast.AST) -> list[ast.expr]:
    found = (
        list(node.targets)
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    while any(isinstance(target, ast.Tuple | ast.List) for target in found):
        found = [
            inner
            for target in found
            for inner in (target.elts if isinstance(target, ast.Tuple | ast.List) else [target])
        ]
    return found


def _binds_only(node: ast.AST, names: set[str]) -> bool:
    return bool(_bound(node)) and _bound(node) <= names


def _private_functions(tree: ast.Module) -> dict[str, Function]:
    return {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, Function) and node.name.startswith("_")
    }


def _is_pure(
    node: ast.AST, helpers: dict[str, Function], seen: frozenset[str] = frozenset()
) -> bool:
    """Whether evaluating an expression changes nothing, as far as one file shows."""
    if _works(node):
        return False
    for call in (inner for inner in ast.walk(node) if isinstance(inner, ast.Call)):
        name = _last_name(call.func)
        if isinstance(call.func, ast.Name) and name in PURE_FUNCTIONS:
            continue
        if isinstance(call.func, ast.Attribute) and name in PURE_METHODS:
            continue
        if name not in seen and name in helpers:
            if _only_reads(helpers[name], helpers, seen | {name}):
                continue
        return False
    return True


def _only_reads(function: Function, helpers: dict[str, Function], seen: frozenset[str]) -> bool:
    """Whether a helper writes to nothing but its own locals; it may build a list of lines."""
    own = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and _stores(n)}
    for node in ast.walk(function):
        if isinstance(node, ast.Global | ast.Nonlocal | ast.Delete | ast.With | ast.AsyncWith):
            return False
        if isinstance(node, ast.Attribute | ast.Subscript) and _stores(node):
            return False
        if isinstance(node, ast.Call):
            appends = (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in {"append", "extend"}
                and _last_name(node.func.value) in own
                and isinstance(node.func.value, ast.Name)
            )
            if not appends and not _is_pure(
                ast.Call(func=node.func, args=[], keywords=[]), helpers, seen
            ):
                return False
    return not any(isinstance(n, ast.Yield | ast.YieldFrom | ast.Await) for n in ast.walk(function))


def _stores(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)


def _used(tree: ast.AST) -> Counter[str]:
    """How often each name is read: as a name, as an attribute, or as a text that names it."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if IDENTIFIER.match(node.value):
                found[node.value] += 1
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.name for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Global | ast.Nonlocal):
            found.update(node.names)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] += 1
    return found


def _used_of_others(tree: ast.Module) -> set[str]:
    """Names in use that another module may have defined: imported, attributes, named by a text."""
    found, plain = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if IDENTIFIER.match(node.value) else set()
        elif isinstance(node, ast.Name):
            plain.add(node.id)
    return found | {name for name in plain if name.startswith("_") or "*" in found}


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _imports(tree: ast.AST) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (Import(module, a.name, a.asname or a.name) for a in node.names)


def _drop_offers(tree: ast.Module) -> None:
    """Of what a package imports, only what its own statements use stays: the rest is its offer, of
    which counts what is taken. `import x` without a name can be there for its effect alone.
    """
    kinds = (ast.Import, ast.ImportFrom)
    used = _used(ast.Module([n for n in tree.body if not isinstance(n, kinds)], type_ignores=[]))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            node.names = [a for a in node.names if a.name == "*" or used[a.asname or a.name]]
    tree.body = [n for n in tree.body if not isinstance(n, kinds) or n.names]


def _drop_definitions(tree: ast.Module, paths: frozenset[str]) -> None:
    """Definitions of these paths are gone, and the imports that only they used."""

    def stays(node: ast.AST, owners: tuple[str, ...]) -> bool:
        names = _bound(node)
        return not names or not all(any(f"{o}{n}" in paths for o in owners) for n in names)

    before = _used(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            kept = [n for n in node.body if stays(n, (f"{node.name}.", "*."))]
            node.body = kept or [ast.Pass()]
    tree.body = [node for node in tree.body if stays(node, ("",))]
    now = _used(tree)
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound = [(alias, (alias.asname or alias.name).split(".")[0]) for alias in node.names]
            node.names = [alias for alias, name in bound if now[name] or not before[name]]
    tree.body = [n for n in tree.body if not hasattr(n, "names") or n.names]


def _public(tree: ast.Module) -> tuple[str, ...]:
    """The names that `from module import *` takes, as `__all__` says; without one, none."""
    found: set[str] = set()
    for node in tree.body:
        if not any(isinstance(n, ast.Name) and n.id == "__all__" for n in ast.walk(node)):
            continue
        value = getattr(node, "value", None)
        try:
            names = ast.literal_eval(value) if not isinstance(node, ast.Expr) else None
            found |= set(names)
        except (TypeError, ValueError):  # put together by code: any name
            found.add("*")
    return tuple(sorted(map(str, found)))


def _digest(tree: ast.AST) -> str:
    parts: list[str] = []
    _write(tree, parts.append)
    return hashlib.sha256(f"{RULES}{''.join(parts)}".encode()).hexdigest()[:16] if parts else ""


def _write(node: object, put: Callable[[str], None]) -> None:
    """The tree as text: kinds and fields that are set, no positions. Imports in a row are sorted,
    one name each.
    """
    if isinstance(node, list):
        for entry in _sorted_imports(node):
            _write(entry, put)
            put(",")
    elif isinstance(node, ast.Module):
        _write(node.body, put)
    elif isinstance(node, ast.Constant):
        put(repr(node.value))
    elif isinstance(node, ast.AST):
        put(type(node).__name__ + "(")
        for field in node._fields:
            value = getattr(node, field, None)
            if value is None or value == [] or field in {"ctx", "kind", "type_comment"}:
                continue
            put(field + "=")
            _write(value, put)
            put(";")
        put(")")
    else:
        put(repr(node))


def _sorted_imports(nodes: list[object]) -> list[object]:
    kinds = (ast.Import, ast.ImportFrom)
    if not any(isinstance(node, kinds) for node in nodes):
        return nodes
    found: list[object] = []
    run: list[str] = []

    def flush() -> None:
        found.extend(sorted(run))
        run.clear()

    for node in nodes:
        if isinstance(node, kinds):
            module = f"{node.level}{node.module}" if isinstance(node, ast.ImportFrom) else ""
            run += [f"{module} {alias.name} {alias.asname}" for alias in node.names]
        else:
            flush()
            found.append(node)
    flush()
    return found
