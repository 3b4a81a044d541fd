"""Settings that cannot work are refused before anything slow."""

from pathlib import Path

import pytest

from fcmae.core.errors import UserError
from fcmae.core.world import World
from fcmae.finetune.prepare import check_batch
from tests.finetune.small_run import small_config


def test_mixing_pairs_the_images_of_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(tmp_path, batch_size=12)
    check_batch(config, 100)
    monkeypatch.setattr("fcmae.finetune.prepare.current_world", lambda: World(size=4))
    with pytest.raises(UserError, match=r"4 processes x 1 .* must be even: choose a multiple of 8"):
        check_batch(config, 100)
