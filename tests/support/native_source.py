"""Facts about the native half, read from its Cython sources (by Cython's own parser) and its generated C."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from Cython.Compiler import Errors, Nodes
from Cython.Compiler.TreeFragment import parse_from_strings
from Cython.Compiler.Visitor import TreeVisitor

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src_ext"
GENERATED = ROOT / "build" / "cython"


@dataclass(frozen=True)
class Function:
    """One ``cdef`` function that has a body."""

    module: str  # dotted
    qualname: str  # with the class, if it is a method
    line: int
    nogil: bool
    noexcept: bool
    takes_gil: bool  # `with gil` on the signature, or in the body

    @property
    def c_name(self) -> str:
        return "__pyx_f_" + "_".join(f"{len(part)}{part}" for part in self.module.split(".")) + self._c_suffix

    @property
    def _c_suffix(self) -> str:
        *classes, name = self.qualname.split(".")
        return "".join(f"_{len(part)}{part}" for part in classes) + f"_{name}"


@dataclass(frozen=True)
class Source:
    path: Path
    module: str
    docstring: str | None
    cimports: tuple[tuple[int, str], ...]  # line, dotted name; for `from a cimport b` also `a.b`
    imports: tuple[tuple[int, str], ...]  # run-time imports
    headers: tuple[tuple[int, str], ...]  # what `cdef extern from` names
    functions: tuple[Function, ...]

    @property
    def floor(self) -> str:
        return self.module.split(".")[2]


class _Facts(TreeVisitor):
    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module
        self.cimports: list[tuple[int, str]] = []
        self.imports: list[tuple[int, str]] = []
        self.headers: list[tuple[int, str]] = []
        self.functions: list[Function] = []
        self.classes: list[str] = []

    def visit_Node(self, node: Nodes.Node) -> None:
        self.visitchildren(node)

    def visit_CImportStatNode(self, node: Nodes.CImportStatNode) -> None:
        self.cimports.append((node.pos[1], str(node.module_name)))

    def visit_FromCImportStatNode(self, node: Nodes.FromCImportStatNode) -> None:
        package = str(node.module_name)
        if node.relative_level and node.relative_level > 0:
            parents = self.module.split(".")[: -node.relative_level]
            package = ".".join([*parents, package] if package else parents)
        for _, name, _ in node.imported_names:
            self.cimports.append((node.pos[1], f"{package}.{name}"))

    def visit_ImportNode(self, node: Nodes.Node) -> None:
        self.imports.append((node.pos[1], str(node.module_name.value)))

    def visit_CDefExternNode(self, node: Nodes.CDefExternNode) -> None:
        if node.include_file:
            self.headers.append((node.pos[1], str(node.include_file)))
        self.visitchildren(node)

    def visit_CClassDefNode(self, node: Nodes.CClassDefNode) -> None:
        self.classes.append(str(node.class_name))
        self.visitchildren(node)
        self.classes.pop()

    def visit_CFuncDefNode(self, node: Nodes.CFuncDefNode) -> None:
        declarator = node.declarator
        while not isinstance(declarator, Nodes.CFuncDeclaratorNode):
            declarator = declarator.base  # a pointer is returned
        name = declarator.base
        while not hasattr(name, "name"):
            name = name.base
        within = _GilBlocks()
        within.visit(node.body)
        self.functions.append(
            Function(
                module=self.module,
                qualname=".".join([*self.classes, str(name.name)]),
                line=node.pos[1],
                nogil=bool(declarator.nogil),
                noexcept=declarator.exception_value is None and not declarator.exception_check,
                takes_gil=bool(declarator.with_gil) or within.found,
            )
        )
        self.visitchildren(node, ["body"])


class _GilBlocks(TreeVisitor):
    found = False

    def visit_Node(self, node: Nodes.Node) -> None:
        self.visitchildren(node)

    def visit_GILStatNode(self, node: Nodes.GILStatNode) -> None:
        self.found = self.found or str(node.state) == "gil"
        self.visitchildren(node)


def parse(text: str, module: str, path: Path, is_pxd: bool) -> Source:
    Errors.init_thread()
    tree = parse_from_strings(module, text, level="module_pxd" if is_pxd else "module")
    facts = _Facts(module)
    facts.visit(tree)
    return Source(
        path=path,
        module=module,
        docstring=str(tree.doc) if tree.doc else None,
        cimports=tuple(facts.cimports),
        imports=tuple(facts.imports),
        headers=tuple(facts.headers),
        functions=tuple(facts.functions),
    )


def is_test_module(path: Path) -> bool:
    return path.name.startswith("_t_")


@cache
def all_sources() -> tuple[Source, ...]:
    """Every ``.pyx`` and ``.pxd`` but the empty markers of packages."""
    found = []
    for path in sorted([*SOURCES.rglob("*.pyx"), *SOURCES.rglob("*.pxd")]):
        if path.stem == "__init__":
            continue
        module = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
        found.append(parse(path.read_text(), module, path.relative_to(ROOT), path.suffix == ".pxd"))
    return tuple(found)


_DEFINITION = re.compile(r"^[A-Za-z_][^;={}#]*?\b(__pyx_f_\w+)\([^;{}]*\)\s*\{\s*$", re.MULTILINE)


def c_functions(text: str) -> Iterator[tuple[str, int, str]]:
    """Name, line and body of each ``cdef`` function that a generated C file defines.

    Cython closes a function with a brace in the first column, and nothing else.
    """
    for match in _DEFINITION.finditer(text):
        end = text.index("\n}", match.end())
        yield match.group(1), text.count("\n", 0, match.start()) + 1, text[match.end() : end]


# Everything of CPython's, and every helper of Cython's, is forbidden unless it stands here.
_HARMLESS = re.compile(r"Py_ssize_t|Py_hash_t|__Pyx_UNLIKELY|__Pyx_LIKELY")
_SUSPECT = re.compile(r"\b(_?Py[A-Z_]\w*|__Pyx_\w+|__pyx_n_\w+|__pyx_builtin_\w+)")
_NOISE = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\])*"', re.DOTALL)


def python_calls(body: str) -> list[str]:
    """What a C function body uses of Python: empty for one that can run on a thread that has no GIL."""
    code = _NOISE.sub(" ", body)
    return sorted({name for name in _SUSPECT.findall(code) if not _HARMLESS.fullmatch(name)})
