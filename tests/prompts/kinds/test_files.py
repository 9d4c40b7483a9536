"""In how many files of the package a kind of prompt is named: the fewer, the easier another one is to add."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import nnsam3d
from nnsam3d.evaluation.names import DRAWN, PROTOCOLS
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.simulation import EXTENT_WEIGHTS

PACKAGE = Path(nnsam3d.__file__).parent
OTHERS = ("niivue.js", "package.json", "package-lock.json")
MOST = 8
# A click is not one kind among others: it is the default, the correction and the control of everything. A mask to start
# from has a way of its own through sessions, saved cases, training and the benchmark, because it is an image.
EXCEPTIONS = {"click": 44, "mask": 24}
OBJECTS = "synthetic"  # whose objects are boxes and tubes; no prompts
KNOW_NO_KIND = ("network", "training", "nnunet", "server/page")


@functools.cache
def names_in(file: Path) -> tuple[set[str], set[str]]:
    """The classes that a file may use, and its texts of one word. Of a page's file, only the texts between quotes."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return set(), set(re.findall(r"""["'`]([\w-]+)["'`]""", text))
    identifiers: set[str] = set()
    texts: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            identifiers.add(node.id)
        elif isinstance(node, ast.Attribute):
            identifiers.add(node.attr)
        elif isinstance(node, (ast.alias, ast.ClassDef)):
            identifiers.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    return identifiers, texts


def files_that_name(kind: str) -> list[str]:
    files = [file for ending in ("py", "js", "html") for file in PACKAGE.rglob(f"*.{ending}")]
    found = []
    for file in files:
        if file.name not in OTHERS and not {"node_modules", OBJECTS} & set(file.parts):
            identifiers, texts = names_in(file)
            if KINDS[kind].__name__ in identifiers or kind in texts:
                found.append(str(file.relative_to(PACKAGE)))
    return sorted(found)


@pytest.mark.parametrize("kind", KINDS)
def test_few_files_name_a_kind(kind: str) -> None:
    found = files_that_name(kind)
    assert len(found) <= EXCEPTIONS.get(kind, MOST), found
    assert kind in EXCEPTIONS or not [file for file in found if file.startswith(KNOW_NO_KIND)]


def test_names_are_found_in_python_and_on_the_page(tmp_path: Path) -> None:
    python, page = tmp_path / "one.py", tmp_path / "two.js"
    python.write_text('"""A "line" in prose."""\nfrom x import Lasso\nmade = Box(\n    kind="scribble"\n)\n')
    page.write_text("const tools = { \"line\": `box`, other: 'lasso' }; // Scribble\n")
    identifiers, texts = names_in(python)
    assert {"Lasso", "Box", "made"} <= identifiers
    assert "scribble" in texts
    assert "line" not in texts
    assert names_in(page) == (set(), {"line", "box", "lasso"})


def test_every_kind_that_training_draws_is_one_of_the_benchmark() -> None:
    assert set(DRAWN) == set(EXTENT_WEIGHTS)
    assert set(DRAWN) <= set(PROTOCOLS)


def test_the_keys_of_the_tools_are_free() -> None:
    text = (PACKAGE / "server/page/keys.js").read_text(encoding="utf-8")
    letters = re.search(r"const LETTERS = \{(.*?)\};", text, re.DOTALL)
    assert letters
    taken = re.findall(r"\b(\w):", letters[1])
    keys = [kind.tool.key.lower() for kind in KINDS.values() if kind.tool is not None]
    assert "z" in taken
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(taken)
