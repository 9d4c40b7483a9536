"""Errors that the user can fix."""


class UserError(ValueError):
    """Invalid user input; the message states what is wrong, where, and what is allowed.

    Commands print the message without a traceback and exit with status 1.
    """
