"""The images of a run that could not be read, each listed once with the reason."""

from pathlib import Path

from fcmae.core.distributed import current_world, gather_lists
from fcmae.data.images import ImageSource
from fcmae.data.index import ImageIndex


class BrokenList:
    r"""Broken images, one a line in a text file: name, tab, reason. It goes on from what the file holds.

    Names are the bytes that the file system knows, with \t, \n, \r and \\ for what a line cannot hold. Rank
    zero writes at once what it meets, and what the others have met when all `gather`.

    Args:
        path: the file; made when the first broken image is met
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # without the line that a killed process was writing
        self.names = {line.partition(b"\t")[0] for line in whole.split(b"\n")[:-1]}
        self._size = len(whole)
        self._unsent: list[tuple[bytes, bytes]] = []

    def __len__(self) -> int:
        return len(self.names)

    def add(self, source: ImageSource, broken: list[tuple[int, str]]) -> None:
        """List images that are not listed yet.

        Args:
            source: what they were read from
            broken: (index, reason) of each
        """
        self.add_names([(source.name(index), reason) for index, reason in broken])

    def add_names(self, broken: list[tuple[str, str]]) -> None:
        """List images that are not listed yet by (name, reason)."""
        self._note([(_encode(name), _encode(reason)) for name, reason in broken])

    def gather(self) -> None:
        """List what all processes of the run have met; each of them calls this."""
        everything, self._unsent = gather_lists(self._unsent), []
        self._note(everything)
        self._unsent = []

    def _note(self, broken: list[tuple[bytes, bytes]]) -> None:
        """List images by name, and keep what is new for the next gathering."""
        new = {name: reason for name, reason in broken if name not in self.names}
        self.names.update(new)
        self._unsent += new.items()
        if new and current_world().is_rank_zero:
            with self.path.open("ab") as file:
                file.truncate(self._size)
                self._size += file.write(b"".join(b"%b\t%b\n" % line for line in new.items()))


def _encode(text: str) -> bytes:
    """Return a name or a reason as a part of a line, a name's undecodable bytes as they are."""
    for plain, escaped in (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r")):
        text = text.replace(plain, escaped)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no name that a file system gave
        return text.encode("utf-8", "backslashreplace")


def count_broken(listed: Path, images: Path) -> str:
    """Say how many images of a run could not be read, as `3 of 27 images, listed in FILE`; nothing for none.

    Args:
        listed: the file that a `BrokenList` wrote, if there were any
        images: the file of the run's list of images, if it keeps one

    Raises:
        UserError: the list of images is damaged
    """
    broken = len(BrokenList(listed))
    total = f" of {len(ImageIndex.load(images))}" if images.exists() else ""
    return f"{broken}{total} images, listed in {listed}" if broken else ""
