"""The size and order of the source, counted: ``python -m benchmarks.house``; ``--list`` names what is counted."""

from __future__ import annotations

import argparse
import ast
import graphlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NNUNET = {"nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl_utils", "dynamic_network_architectures"}
ROOMS = ("geometry", "prompts", "inference", "network")  # whose arguments are counted
MANY = 3  # arguments from which all are documented
# Names that every command, and every format of prompts, defines: they are looked up there.
ENTRY_POINTS = {"commands": {"main", "add_arguments"}, "prompts/formats": {"recognises", "parse"}}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(*folders: str) -> dict[str, ast.Module]:
    """Every Python file of some folders, by its path below the root."""
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def imports(tree: ast.AST, package: str = "") -> Iterator[str]:
    """The modules that a file of a package imports, at any level; for ``from a import b`` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def importing_nnunet(trees: dict[str, ast.Module]) -> list[str]:
    """The files that import nnU-Net or a package that belongs to it."""
    return [file for file, tree in trees.items() if {name.partition(".")[0] for name in imports(tree)} & NNUNET]


def defined_twice(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Public classes, functions and type aliases of one name in several files.

    Left out are entry points (ENTRY_POINTS), and the routes of the server, which are named after their paths.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for file, tree in trees.items():
        room = str(Path(file).parent.relative_to("nnsam3d"))
        for name in _public(tree):
            if name not in ENTRY_POINTS.get(room, ()):
                found[name].append(file)
    return {name: files for name, files in sorted(found.items()) if len(set(files)) > 1}


def _public(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            is_route = isinstance(node, ast.AsyncFunctionDef) and [one.arg for one in node.args.args] == ["call"]
            if not is_route:
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [one.id for one in targets if isinstance(one, ast.Name)]
            yield from (name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name))  # type aliases


def circle(trees: dict[str, ast.Module]) -> list[str]:
    """Modules each of which imports the one before it, ending where they begin, at any level but for type checkers."""
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in trees}
    below = {}
    for name, file in modules.items():
        kept = [node for node in trees[file].body if not ast.unparse(node).startswith("if TYPE_CHECKING")]
        package = str(Path(file).parent).replace("/", ".")
        below[name] = set(imports(ast.Module(kept, []), package)) & modules.keys() - {name}
    try:
        graphlib.TopologicalSorter(below).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def arguments(trees: Iterable[ast.Module]) -> Iterator[tuple[str, bool]]:
    """The arguments of public functions and methods with many of them, and whether each is documented.

    A method's may be documented in a base class, and those of ``__init__`` in the class.
    """
    nodes = [node for tree in trees for node in tree.body]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    functions = [("", node) for node in nodes if isinstance(node, Function)]
    functions += [(name, one) for name, node in classes.items() for one in node.body if isinstance(one, Function)]
    for owner, one in functions:
        every = [*one.args.posonlyargs, *one.args.args, *one.args.kwonlyargs]
        names = [arg.arg for arg in every if arg.arg not in ("self", "cls")]
        hidden = owner.startswith("_") or (one.name.startswith("_") and one.name != "__init__")
        if len(names) >= MANY and not hidden:
            text = "\n".join([ast.get_docstring(one) or "", *_inherited(owner, one.name, classes)])
            prefix = f"{owner}." if owner else ""
            yield from ((f"{prefix}{one.name}({name})", _documented(name, text)) for name in names)


def _inherited(owner: str, method: str, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    if owner in classes and method == "__init__":
        yield ast.get_docstring(classes[owner]) or ""
    for base in classes[owner].bases if owner in classes else ():
        if found := classes.get(ast.unparse(base)):
            yield from (ast.get_docstring(one) or "" for one in found.body if getattr(one, "name", "") == method)
            yield from _inherited(found.name, method, classes)


def _documented(name: str, docstring: str) -> bool:
    """Whether an entry of "Args:" (or "Attributes:" of the class) names it, alone or among others."""
    parts = re.findall(r"(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", docstring)
    return any(re.search(rf"(?:^|[.;] )[ \t]*(?:\w+, )*{name}(?:, \w+)*:", part, re.MULTILINE) for part in parts)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name what is counted")
    wanted = parser.parse_args().list
    trees = parsed("nnsam3d")
    for title, files in (("source lines", trees), ("tests' lines", parsed("tests"))):
        print(f"{title}: {sum(len((ROOT / file).read_text(encoding='utf-8').splitlines()) for file in files)}")
    found = {
        "files that import nnU-Net": importing_nnunet(trees),
        "names defined twice": [f"{name}: {', '.join(files)}" for name, files in defined_twice(trees).items()],
        "files in a circle": circle(trees)[1:],
    }
    print(*(f"{title}: {len(entries)}" for title, entries in found.items()), sep="\n")
    for room in ROOMS:
        told = list(arguments(tree for file, tree in trees.items() if file.startswith(f"nnsam3d/{room}/")))
        found[f"arguments without documentation, {room}"] = [name for name, is_told in told if not is_told]
        share = 100 * sum(is_told for _, is_told in told) / max(1, len(told))
        print(f"documented arguments of functions with {MANY} or more, {room}: {share:.0f} %")
    for title, entries in found.items():
        if wanted and entries:
            print(f"\n{title}", *entries, sep="\n  ")


if __name__ == "__main__":
    main()
