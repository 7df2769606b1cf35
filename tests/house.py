"""Reads source and docs and says where they break the rules of the house, each time with the repair.

Sources are parsed, never imported, so a half-written module can be judged too. Every function takes text or a tree
of files and returns findings; test_house.py runs them on this checkout and on planted mistakes.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PACKAGE = "mynosql"
FLOORS = {
    **dict.fromkeys(
        (
            "address", "batch", "clock", "codec", "collector", "columns", "errors", "fields", "idkey", "jsonform",
            "options", "record", "registry", "revision", "row", "scalars", "scope", "transitions", "turns",
            "views",
        ), 0,
    ),
    **dict.fromkeys(("store", "sync"), 1),
    **dict.fromkeys(("damage", "ledger", "lookups", "replica", "scoping", "trimming", "troubles"), 2),
    "net": 3,
    **dict.fromkeys(
        (
            "backup", "bridge", "control", "database", "exporting", "feed", "memory", "merging", "opened", "parallel",
            "reading", "rejecting", "repairing", "sharing", "workers",
        ), 4,
    ),
    **dict.fromkeys(("cli", "__main__"), 5),
}
"""Module or folder of the package → its floor (DESIGN §7)."""
FACE = 4
"""The floor of the package's own names: `from mynosql import opendb`."""
FLOOR_NAMES = ("F0 values", "F1 store and sync", "F2 replica", "F3 net", "F4 the face", "F5 the command")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60


def module_name(path: str) -> str:
    """The dotted name of a file given relative to the root: "mynosql/store/index.py" → "mynosql.store.index"."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def floor_of(name: str) -> int:
    """The floor of a module of ours, or of a name that it exports."""
    parts = name.split(".")
    return FLOORS.get(parts[1], FACE) if len(parts) > 1 else FACE


# What a module reaches


@dataclass(frozen=True, slots=True)
class Reached:
    """A name that a module imports, or uses of what it imported: "os.urandom", "builtins.print", "mynosql.row.Leaf"."""

    name: str
    line: int
    is_import: bool
    is_type_only: bool = False
    """Inside `if TYPE_CHECKING:`."""


def reached_names(source: str, module: str, *, is_package: bool = False) -> Iterator[Reached]:
    """Everything that the module imports, anywhere in it, and the dotted uses of that and of builtins."""
    tree = ast.parse(source)
    type_only = {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body for inner in ast.walk(statement)
    }
    known: dict[str, tuple[str, bool]] = {}
    for node in ast.walk(tree):
        for imported in _imports_of(node, module, is_package):
            known[imported.alias] = imported.bound, id(node) in type_only
            yield Reached(imported.name, imported.line, True, id(node) in type_only)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and (name := _dotted(node)):
            first, _, rest = name.partition(".")
            if first in known:
                bound, is_type_only = known[first]
                yield Reached(f"{bound}.{rest}".rstrip("."), node.lineno, False, is_type_only)
            elif not rest:
                yield Reached(f"builtins.{first}", node.lineno, False)


class _Imported(NamedTuple):
    alias: str
    bound: str
    """What the alias stands for: `import os.path` binds os to "os"."""
    name: str
    line: int


def _imports_of(node: ast.AST, module: str, is_package: bool) -> Iterator[_Imported]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.split(".")[0]
            yield _Imported(alias.asname or top, alias.name if alias.asname else top, alias.name, node.lineno)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            here = module.split(".") if is_package else module.split(".")[:-1]
            base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            yield _Imported(alias.asname or alias.name, name, name, node.lineno)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


# Fences


@dataclass(frozen=True, slots=True)
class Fence:
    """Names that only some modules may reach."""

    names: tuple[str, ...]
    is_allowed: Callable[[str], bool]
    repair: str


def _inside(*prefixes: str) -> Callable[[str], bool]:
    names = tuple(f"{PACKAGE}.{prefix}" for prefix in prefixes)
    return lambda module: any(module == name or module.startswith(name + ".") for name in names)


def _outside(prefix: str) -> Callable[[str], bool]:
    return lambda module: not _inside(prefix)(module)


def _from_floor(floor: int, *also: str) -> Callable[[str], bool]:
    return lambda module: floor_of(module) >= floor or _inside(*also)(module)


def _nowhere(_: str) -> bool:
    return False


def _is_above_pure(module: str) -> bool:
    return floor_of(module) > 0 and not _inside("sync")(module)


FENCES = (
    Fence(("zmq",), _inside("net"), "only net/ touches ZeroMQ: hand frames to it, or move the code into net/"),
    Fence(("sqlite3",), _inside("store"), "only store/ touches SQLite: ask store.index for what is needed"),
    Fence(
        ("time", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
        _from_floor(3, "replica"),
        "clocks are read in replica.py, net/ and above: take `now` (or now_ms) as an argument",
    ),
    Fence(
        ("random", "secrets", "os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4"),
        _from_floor(3, "replica"),
        "randomness comes from replica.py, net/ and above: take an rng or a mint function as an argument "
        "(an annotation may import random under TYPE_CHECKING)",
    ),
    Fence(
        ("threading", "_thread", "queue", "asyncio", "multiprocessing", "concurrent"), _from_floor(3),
        "threads and locks live in net/ and from the face upwards: make it a function step(now) -> next_due, or a job "
        "that the caller runs",
    ),
    Fence(
        ("builtins.print",), _inside("cli", "__main__"),
        "only cli/ prints: return the value, or use logging from the store upwards",
    ),
    Fence(
        ("logging", "warnings"), _is_above_pure,
        "values and sessions do not log: return or raise what was found (sync: an effect)",
    ),
    Fence(
        ("os", "io", "pathlib", "shutil", "tempfile", "subprocess", "socket", "ssl", "select", "builtins.open"),
        _is_above_pure,
        "values and sessions do no I/O: take the bytes as an argument (sync: return an effect)",
    ),
    Fence(
        ("pickle", "marshal", "shelve", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__"),
        _nowhere,
        "nothing is ever unpickled or evaluated: pack with codec, dispatch with a table",
    ),
    Fence((f"{PACKAGE}.sync",), _outside("store"), "store/ and sync/ never import each other: they meet in replica.py"),
    Fence((f"{PACKAGE}.store",), _outside("sync"), "store/ and sync/ never import each other: they meet in replica.py"),
)


def findings_in(source: str, path: str) -> list[str]:
    """What the module at that path reaches and must not, each with the repair."""
    module = module_name(path)
    found: dict[str, None] = {}
    for reached in reached_names(source, module, is_package=path.endswith("__init__.py")):
        if reached.is_import and reached.name.split(".")[0] == PACKAGE and floor_of(reached.name) > floor_of(module):
            found[
                f"{path}, line {reached.line}: {FLOOR_NAMES[floor_of(module)]} imports {reached.name} of "
                f"{FLOOR_NAMES[floor_of(reached.name)]}: move what is needed down to the lower floor, or take it as an "
                "argument"
            ] = None
        for fence in FENCES:
            name = next((name for name in fence.names if f"{reached.name}.".startswith(f"{name}.")), None)
            if name is not None and not fence.is_allowed(module) and not reached.is_type_only:
                found[f"{path}, line {reached.line}: uses {name.removeprefix('builtins.')}: {fence.repair}"] = None
    return list(found)


# Sizes


def sizes_in(source: str, path: str) -> list[str]:
    """Files over 500 lines and functions over 60 (docstrings not counted): a decision, not a crime."""
    found = []
    lines = source.count("\n")
    if lines > FILE_LINES_MAX:
        found.append(f"{path} has {lines} lines: does a second noun live in it?")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{path}: {node.name} has {length} lines: which step of it deserves a name?")
    return found


# Test files


TESTED_WITH = {
    "mynosql/columns.py": "tests/test_batch.py",
    "mynosql/registry.py": "tests/test_codec.py",
    "mynosql/scalars.py": "tests/test_codec.py",
    "mynosql/store/reader.py": "tests/store/test_store.py",
    "mynosql/store/types.py": "tests/store/test_store.py",
    "mynosql/sync/effects.py": "tests/sync/test_node.py",
    "mynosql/sync/hub.py": "tests/sync/test_node.py",
    "mynosql/sync/messages.py": "tests/sync/test_wire.py",
}
"""Halves of another module that only make sense with it, and values without behaviour of their own."""


def test_file_of(path: str) -> str | None:
    """Where the tests of a module live; None for __init__ and __main__, which hold nothing to test."""
    if path in TESTED_WITH:
        return TESTED_WITH[path]
    *folders, name = path.split("/")
    if name in ("__init__.py", "__main__.py"):
        return None
    return "/".join(["tests", *folders[1:], f"test_{name}"])


# Names in the docs


class Tree:
    """A checkout: its files, and the public names that the package's modules define."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = sorted(
            path.relative_to(root).as_posix() for path in (root / PACKAGE).rglob("*.py")
            if "__pycache__" not in path.parts
        )
        self.names: dict[str, set[str]] = {}
        """Dotted module or class → the names in it."""
        for path in self.paths:
            self.add_module(module_name(path), (root / path).read_text(encoding="utf-8"))

    def add_module(self, module: str, source: str) -> None:
        parent = module
        while "." in parent:
            parent = parent.rpartition(".")[0]
            self.names.setdefault(parent, set())
        names = self.names.setdefault(module, set())
        for node in ast.parse(source).body:
            names |= _bound_by(node)
            if isinstance(node, ast.ClassDef):
                self.names[f"{module}.{node.name}"] = _members_of(node)
                for base in map(_dotted, node.bases):
                    # Bases of the same module: they stand before.
                    self.names[f"{module}.{node.name}"] |= self.names.get(f"{module}.{base}", set())

    def has_file(self, path: str) -> bool:
        if "/" in path:
            return (self.root / path).exists()
        return (self.root / path).exists() or any(
            True for folder in (PACKAGE, "tests", "docs", "examples") for _ in (self.root / folder).rglob(path)
        )

    def has_name(self, dotted: str) -> bool:
        """False only for a name that must be ours and is not there; names of others pass."""
        first, *rest = dotted.split(".")
        if first == "db":
            first = "MyNoSQL"
        owners = [name for name in self.names if name == first or name.rsplit(".", 1)[-1] == first]
        if not owners:
            return True
        if any(self._resolves(owner, rest) for owner in owners):
            return True
        return first in sys.stdlib_module_names and hasattr(__import__(first), rest[0])

    def _resolves(self, owner: str, rest: list[str]) -> bool:
        if not rest:
            return True
        inner = f"{owner}.{rest[0]}"
        if inner in self.names:
            return self._resolves(inner, rest[1:])
        # The members of anything but a class or module are not followed.
        return rest[0] in self.names[owner]


def _bound_by(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _members_of(node: ast.ClassDef) -> set[str]:
    members = set().union(*map(_bound_by, node.body))
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and _dotted(inner.value) == "self":
            members.add(inner.attr)
    return members


_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
_DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(\(.*\))?")
_SOURCE_SUFFIXES = (".py", ".md", ".toml", ".ini")
_DATA_SUFFIXES = {"csv", "db", "exe", "json", "key", "lock", "log", "secret", "shard", "sqlite", "tmp", "txt"}
"""`index.sqlite` is a file of a database, not a name of index.py."""
_LINE_NUMBER = re.compile(r"\.py(?::|#L?)\d+|\blines? \d+")


def doc_findings(text: str, path: str, tree: Tree) -> list[str]:
    """Files and names in backticks that are not there, and line numbers, which are wrong after the next edit."""
    prose = _FENCED.sub("", text)
    found = [
        f"{path} quotes {match.group()!r}: name the function instead, line numbers move"
        for match in _LINE_NUMBER.finditer(prose)
    ]
    tops = {entry.name for entry in tree.root.iterdir() if entry.is_dir()}
    for token in dict.fromkeys(_CODE.findall(prose)):
        if _PATH.fullmatch(token) and (
            token.endswith(_SOURCE_SUFFIXES) or ("/" in token and token.split("/")[0] in tops)
        ):
            if not tree.has_file(token):
                found.append(f"{path} names `{token}`, which is not there: correct the path")
            continue
        match = _DOTTED.fullmatch(token)
        if match and token.rpartition(".")[2] not in _DATA_SUFFIXES and not tree.has_name(match.group(1)):
            found.append(f"{path} names `{token}`, which nothing defines: correct the name")
    return found
