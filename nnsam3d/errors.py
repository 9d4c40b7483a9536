"""The errors that a person caused and can cure."""


class UserError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what would be right.

    Commands print the message without a traceback and exit with status 1.
    """
