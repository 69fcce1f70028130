"""The exceptions that several packages raise and catch."""


class UserError(Exception):
    """An error that the user can correct: a wrong key, a missing file, a full disk.

    Stages and the command line print its message as one line, without a traceback, and exit with status 1. The
    message names the key or the file, the value, the allowed values and the place to change it.
    """


class InvalidUpdate(ValueError):
    """A message of another party that fails a check, for instance an update that cannot be added."""
