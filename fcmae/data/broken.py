"""The images of a run that could not be read, each listed once with the reason."""

from pathlib import Path

from fcmae.data.dataset import ImageSource


class BrokenList:
    """Broken images, one a line in a text file: name, tab, reason. It goes on from what the file holds.

    Args:
        path: the file; made when the first broken image is met
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.names = {line.partition("\t")[0] for line in lines}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, source: ImageSource, broken: list[tuple[int, str]]) -> None:
        """List images, given by number and reason, that are not listed yet."""
        if not broken:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for number, reason in broken:
                name = source.name(number)
                if name not in self.names:
                    file.write(f"{name}\t{reason}\n")
                self.names.add(name)
