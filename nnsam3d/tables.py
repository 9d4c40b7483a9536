"""Text for a terminal: counted nouns, and tables, aligned or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[str]


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "click"), counted(0, "click")
    ('1 click', '0 clicks')
    """
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """
    >>> plural("suffix"), plural("click")
    ('suffixes', 'clicks')
    """
    return f"{noun}es" if noun.endswith("x") else f"{noun}s"


def columns(rows: Sequence[Row], indent: str = "") -> str:
    """Aligned columns, two spaces apart; the last one is left as it is."""
    widths = _widths(rows)
    widths[-1] = 0
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)


def markdown(header: Row, rows: Sequence[Row], aligned: bool = False) -> str:
    """A Markdown table.

    Args:
        aligned: align the columns in the text; for a terminal.
    """
    widths = _widths([header, *rows]) if aligned else [0] * len(header)
    rule = ["-" * max(3, width) for width in widths]
    widths = [len(one) for one in rule] if aligned else widths
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in (header, rule, *rows))


def _widths(rows: Sequence[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
