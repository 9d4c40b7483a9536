"""The examples in docstrings run, and every public name of geometry and prompts has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import types

import pytest

PACKAGES = ("nnsam3d.geometry", "nnsam3d.prompts", "nnsam3d.inference")
FINDER = doctest.DocTestFinder(exclude_empty=False)
# Protocols and exceptions are not called by users.
WITHOUT = {"Step", "GeometryError", "GeometryWarning", "PromptError", "PromptWarning"}


def modules() -> list[str]:
    found = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        found += [name, *(info.name for info in pkgutil.walk_packages(package.__path__, f"{name}."))]
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("package", PACKAGES[:2])
def test_public_names_have_examples(package: str) -> None:
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    wanted = {
        name: value
        for name, value in public.items()
        if isinstance(value, (type, types.FunctionType)) and name not in WITHOUT
    }
    assert len(wanted) > 5
    missing = [name for name, value in wanted.items() if ">>>" not in (inspect.getdoc(value) or "")]
    assert missing == []
