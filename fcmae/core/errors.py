"""The exceptions that a person at the command line is meant to read, and what the system's mean to one."""

import errno
from pathlib import Path


class UserError(ValueError):
    """Something the user can mend. The message names the file or option, its value and the remedy.

    The command line prints it as one line, without a traceback, and exits with `exit_status`.
    """

    exit_status = 2
    of_process = False  # whether it names the process of a run that met it, which need not be the first


class TransientError(UserError):
    """Something that may be gone the next time: a port in use, a machine that does not answer."""

    exit_status = 1


AGAIN = "it may pass: repeat the command once it answers, which goes on"
FINAL = {
    errno.ENOSPC: "make room, and repeat the command",
    errno.EDQUOT: "delete what is not needed or have the quota raised, and repeat the command",
    errno.EFBIG: "have the limit on the size of files raised, and repeat the command",
    errno.EROFS: "have it mounted for writing, or choose another folder",
    errno.EACCES: "have yourself permitted, or choose another folder",
    errno.EPERM: "have yourself permitted, or choose another folder",
    errno.ENOENT: "was it, or its folder, deleted or moved? Bring it back, or start anew elsewhere",
    errno.EISDIR: "a folder lies in the place of a file: move it away, and repeat the command",
    errno.ENOTDIR: "a file lies in the place of a folder: move it away, or choose another folder",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or lower images.workers",
}
PASSING = {
    errno.EIO: f"the disk or the way to it fails; {AGAIN}",
    errno.ESTALE: f"the file server has been restarted, or another machine replaced the file; {AGAIN}",
    errno.ENOMEM: "memory ran out: have less run beside it, or ask for more; the same command goes on",
    **dict.fromkeys(
        (
            errno.ENOTCONN,
            errno.ETIMEDOUT,
            errno.EHOSTDOWN,
            errno.EHOSTUNREACH,
            errno.ENETDOWN,
            errno.ENETUNREACH,
            errno.ESHUTDOWN,
            errno.EBUSY,
            errno.EAGAIN,
            errno.EINTR,
            errno.ENFILE,
            errno.ENOLCK,
        ),
        f"the file server does not answer; {AGAIN}",
    ),
}


def explain(error: OSError, path: Path | None = None) -> UserError | None:
    """Return what an error of the system means to a person, with the remedy; None of one that nobody expects.

    Args:
        error: as it was raised
        path: what it is about, where the error does not name its file
    """
    number = error.errno or 0
    remedy = PASSING.get(number) or FINAL.get(number)
    if remedy is None:
        return None
    name = path or error.filename2 or error.filename
    kind = TransientError if number in PASSING else UserError
    return kind(f"{name}: {error.strerror}: {remedy}" if name else f"{error.strerror}: {remedy}")
