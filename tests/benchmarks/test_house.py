"""What `python -m benchmarks.house` counts."""

from __future__ import annotations

import ast

from benchmarks.house import arguments, circle, defined_twice, importing_nnunet


def trees(**sources: str) -> dict[str, ast.Module]:
    """Files of nnsam3d/room by name."""
    return {f"nnsam3d/room/{name}.py": ast.parse(source) for name, source in sources.items()}


def test_a_circle_is_found_through_functions_and_relative_imports_but_not_for_type_checkers():
    one = "def f():\n    from nnsam3d.room import two\n"
    assert set(circle(trees(one=one, two="from .one import f"))) == {"nnsam3d.room.one", "nnsam3d.room.two"}
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nnsam3d.room.one import f\n"
    assert circle(trees(one=one, two=typed)) == []


def test_classes_functions_and_aliases_are_names():
    sources = trees(
        one="class A: pass\nTriple = int\nLIMIT = 1\ndef _f(): pass", two="def A(): pass\nTriple = int\nLIMIT = 2"
    )
    assert sorted(defined_twice(sources)) == ["A", "Triple"]
    routes = trees(one="async def undo(call: Call): pass", two="async def undo(call: Call): pass")
    assert defined_twice(routes) == {}
    commands = {f"nnsam3d/commands/{name}.py": ast.parse("def main(): pass") for name in ("one", "two")}
    assert defined_twice(commands) == {}
    assert "main" in defined_twice({**commands, **trees(one="def main(): pass", two="def main(): pass")})


def test_files_that_import_nnunet():
    assert importing_nnunet(trees(one="def f():\n    import nnunetv2.paths", two="import nnunetv2_other")) == [
        "nnsam3d/room/one.py"
    ]


def test_arguments_are_documented_alone_or_together_or_in_a_base_class():
    source = '''
def f(a, b, c, d, e):
    """Text.

    Args:
        a, b: voxels. c: mm.
        d: other.

    Returns:
        e: not an argument.
    """
class Base:
    def method(self, x, y, z):
        """
        Args:
            x, y: so.
        """
class Derived(Base):
    """
    Attributes:
        p, q, r: numbers.
    """
    def __init__(self, p, q, r): ...
    def method(self, x, y, z): ...
    def few(self, x, y): ...
'''
    missing = {name for name, is_told in arguments([ast.parse(source)]) if not is_told}
    assert missing == {"f(e)", "Base.method(z)", "Derived.method(z)"}
