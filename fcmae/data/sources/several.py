"""Several folders, lists or tables as one data set: --data given more than once."""

from collections.abc import Sequence

from fcmae.core.errors import UserError
from fcmae.data.classes import Halves, LabelledFiles
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener
from fcmae.data.sources.files import FilesOpener, join_labelled, join_lists, real_path
from fcmae.data.sources.folder import FolderOpener
from fcmae.data.sources.tar import TarOpener


class SeveralOpener(FilesOpener):
    """Data of several places; classes are united by their names.

    Args:
        openers: of the places, in the order in which their images follow each other
    """

    def __init__(self, openers: Sequence[Opener]) -> None:
        super().__init__(" + ".join(opener.spec for opener in openers))
        self.parts: list[FilesOpener] = []
        for opener in openers:
            if not isinstance(opener, FilesOpener):
                raise UserError(
                    f"{opener.spec} cannot be joined with other data: folders, lists and tables of files can"
                )
            self.parts.append(opener)
        archives = [real_path(part.spec) for part in self.parts if isinstance(part, TarOpener)]
        if len(set(archives)) < len(archives):
            raise UserError(f"{self.spec}: the same archives are given twice, and would count so")
        roots = [real_path(part.spec) for part in self.parts if isinstance(part, FolderOpener)]
        for i, root in enumerate(roots):
            for other in roots[:i]:
                if root == other or root in other.parents or other in root.parents:
                    raise UserError(f"{root} and {other} hold the same images, which would count twice")

    @classmethod
    def matches(cls, spec: str) -> bool:
        return False

    @property
    def setting(self) -> list[str]:
        return [part.spec for part in self.parts]

    @property
    def name(self) -> str:
        return "+".join(part.name for part in self.parts)

    def list_files(self, *, held_out: bool) -> ImageIndex:
        return join_lists([part.list_files(held_out=held_out) for part in self.parts])

    def list_halves(self) -> Halves:
        halves = [part.list_halves() for part in self.parts]
        vals = [val for _, val in halves if val is not None]
        return join_labelled([train for train, _ in halves]), join_labelled(vals) if vals else None

    def list_val(self) -> LabelledFiles:
        return join_labelled([part.list_val() for part in self.parts])

    def is_same(self, other: Opener, lists: Sequence[ImageIndex]) -> bool:
        """Tell whether other data are these, or some of these: all of them were trained on in part."""
        asked = other.parts if isinstance(other, SeveralOpener) else [other]
        return all(any(part.is_same(each, ()) for part in self.parts) for each in asked)
