"""Images that lie in another folder than when a run began."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex


def move_lists(files: Iterable[Path], there: Any, here: Any) -> None:
    """Have the lists that a run keeps say that their images lie in another folder, under the same names.

    Args:
        files: of the lists
        there, here: the setting `data` then and now: folders

    Raises:
        UserError: the data is no folder, or an image is not where it should be
    """
    files = [file for file in files if file.exists()]
    if not (files and isinstance(there, str) and isinstance(here, str) and os.path.isdir(here)):
        raise UserError(f"data is {there} there and {here} here: only a folder of images can have moved")
    before, now = (Path(folder).expanduser().absolute() for folder in (there, here))
    for file in files:
        index = ImageIndex.load(file)
        if index.root.is_relative_to(before):
            index.root = now / index.root.relative_to(before)
        for number in index.spread(100):
            if not index.path(number).exists():
                raise UserError(f"{index.path(number)} does not exist: {here} must hold what {there} held")
        index.save(file)
