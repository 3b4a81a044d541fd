"""The exceptions that a person at the command line is meant to read."""


class UserError(ValueError):
    """Something the user can mend. The message names the file or option, its value and the remedy.

    The command line prints it as one line, without a traceback, and exits with `exit_status`.
    """

    exit_status = 2
    of_process = False  # whether it names the process of a run that met it, which need not be the first


class TransientError(UserError):
    """Something that may be gone the next time: a port in use, a machine that does not answer."""

    exit_status = 1
