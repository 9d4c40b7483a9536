"""References lead somewhere: links in Markdown, paths in code, documents that are in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("nnsam3d", "trainers", "planners", "benchmarks", "tests", "docs", "examples")
HERE = Path(__file__).resolve()
PAGES = sorted(
    [*ROOT.glob("*.md"), *(file for name in FOLDERS if (ROOT / name).is_dir() for file in (ROOT / name).rglob("*.md"))]
)
CODE = sorted(
    [
        *(file for name in FOLDERS for suffix in ("py", "sh", "ipynb") for file in (ROOT / name).rglob(f"*.{suffix}")),
        *(ROOT / name for name in ("Makefile", "setup.py", "pyproject.toml", "mkdocs.yml", "MANIFEST.in")),
    ]
)
PAGES = [file for file in PAGES if "node_modules" not in file.parts]
ALL = [file for file in (*PAGES, *CODE) if file.is_file() and file != HERE and "node_modules" not in file.parts]
# Documents by name and section ("SPEC §3", "DESIGN.md") that only their authors have.
ELSEWHERE = re.compile(
    r"\b(?:SPEC|DESIGN|PERFORMANCE|ORACLE|PAPER|CLICKS)(?:\.md\b|,? §)|\b\w+ §\d|the project's notes"
)
# "docs/network.md#stem", "tests/data/oracle/README.md" anywhere in a text
PATH = re.compile(r"(?<![\w/.<>-])((?:docs|tests|benchmarks|examples)/[\w./-]*\.(?:md|py|sh|ipynb|png))(#[\w-]+)?")
LINK = re.compile(r"\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)?)\)|(?:src|href)=\"([^\"]+)\"")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
OF_AN_EARLIER_COMMIT = {"docs/benchmark_sts_pet.sh"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and MkDocs give a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: dict[str, int] = {}
    result = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        number = found[slug] = found.get(slug, -1) + 1
        result.add(f"{slug}-{number}" if number else slug)
    return result


@pytest.mark.parametrize("file", ALL, ids=name_of)
def test_no_document_outside_the_repository_is_cited(file: Path) -> None:
    assert [match.group(0) for match in ELSEWHERE.finditer(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("file", ALL, ids=name_of)
def test_paths_and_their_anchors_exist(file: Path) -> None:
    for path, anchor in PATH.findall(file.read_text(encoding="utf-8")):
        if path in OF_AN_EARLIER_COMMIT:
            continue
        assert (ROOT / path).is_file(), path
        assert not anchor or anchor[1:] in anchors(ROOT / path), path + anchor


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_their_anchors_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for groups in LINK.findall(text):
        target = next(filter(None, groups))
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or linked.suffix != ".md" or anchor in anchors(linked), target
