"""Weights know the data that they come from."""

import shutil
from pathlib import Path

from fcmae.finetune.origin import is_own_data
from fcmae.finetune.prepare import prepare
from tests.finetune.small_run import small_config


def test_a_folder_of_two_halves_is_known_by_its_name_and_by_the_half(folder: Path, tmp_path: Path) -> None:
    for half in ("train", "val"):
        shutil.copytree(folder, tmp_path / "data" / half)
    _, run = prepare(small_config(tmp_path / "run", data=str(tmp_path / "data"), batch_size=4))
    asked = {name: is_own_data(str(tmp_path / name), run) for name in ("data", "data/val", "data/train", ".")}
    assert asked == {"data": True, "data/val": True, "data/train": False, ".": False}
