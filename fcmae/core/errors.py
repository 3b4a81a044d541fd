"""The one exception that a person at the command line is meant to read."""


class UserError(ValueError):
    """Something the user can mend. The message names the file or option, its value and the remedy.

    The command line prints it as one line, without a traceback, and exits with status 2.
    """
