"""Errors that the user can fix, and names as text for messages."""

from __future__ import annotations

import unicodedata

LINES = "\n\t"  # control characters that a message may contain


def printable(text: str, keep: str = "") -> str:
    r"""Text for a terminal, a report or a log: bytes that are not UTF-8, and control characters, as ``\xNN``.

    Args:
        text: for example a file name; those of other encodings contain surrogates.
        keep: control characters that stay.

    >>> print(printable("\udce9t_0000.nii.gz"), printable("two\nlines"))
    \xe9t_0000.nii.gz two\x0alines
    """
    if text.isprintable():
        return text
    try:
        readable = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        readable = text.encode("utf-8", "backslashreplace")
    shown = []
    for character in readable.decode("utf-8", "backslashreplace"):
        control = unicodedata.category(character) in ("Cc", "Zl", "Zp") and character not in keep
        shown.append(f"\\x{ord(character):02x}" if control else character)
    return "".join(shown)


def first_line(error: BaseException) -> str:
    """The beginning of an error's message; its type if there is none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def last_line(error: BaseException) -> str:
    """The end of an error's message: ITK's begin with places in its source code."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


class UserError(ValueError):
    """Invalid user input; the message states what is wrong, where, and what is allowed.

    Commands print the message without a traceback and exit with status 1.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), LINES)
