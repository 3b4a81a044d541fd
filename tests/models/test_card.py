"""What is known of weights goes into the header of their file and comes back, without torch."""

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fcmae.core.errors import UserError
from fcmae.models.card import CLASSIFIER, ENCODER, Card, find_weights, read_card
from fcmae.models.sizes import Size
from fcmae.models.storage import save_weights

TENSORS = {"a.weight": torch.arange(600.0).view(20, 30), "a.bias": torch.ones(20)}
CARD = Card(
    model="convnextv2_atto",
    options={"in_chans": 1, "stem_stride": 2, "depths": (1, 2, 1, 1)},
    class_names=("ant", "café", "\udce9"),
    image_size=(48, 32),
    mean=(0.5,),
    std=(0.25,),
    crop_pct=0.9,
    value_range=(0, 4095),
    metrics={"ema_top1": 90.0},
    averaged=True,
    pretraining={"data": "photos", "epochs": 3, "mask_ratio": 0.6},
)


def test_a_card_comes_back_whole(tmp_path: Path) -> None:
    save_weights(tmp_path / CLASSIFIER, TENSORS, CARD)
    assert read_card(tmp_path) == read_card(tmp_path / CLASSIFIER) == CARD
    assert Card.from_metadata(CARD.to_metadata()) == CARD


def test_what_is_not_known_is_not_written() -> None:
    known = Card(model="convnextv2_atto", options={})
    assert list(known.to_metadata()) == ["format", "model", "options"]
    assert Card.from_metadata(known.to_metadata()) == known


def test_a_card_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        CARD.crop_pct = 1.0  # type: ignore[misc]


def test_a_card_tells_channels_and_size() -> None:
    assert (CARD.in_chans, Card(model="convnextv2_atto", options={}).in_chans) == (1, 3)
    assert CARD.size == Size((1, 2, 1, 1), (40, 80, 160, 320))


def test_weights_of_others_have_no_card(tmp_path: Path) -> None:
    theirs: list[dict[str, str] | None] = [{"format": "pt", "note": "not { json"}, None]
    for metadata in theirs:
        save_file(TENSORS, tmp_path / "theirs.safetensors", metadata)
        assert read_card(tmp_path / "theirs.safetensors") is None
    torch.save(TENSORS, tmp_path / "theirs.pt")
    assert read_card(tmp_path / "theirs.pt") is None


def test_the_fine_tuned_weights_of_a_folder_go_before_its_encoder(tmp_path: Path) -> None:
    for name in (ENCODER, CLASSIFIER):
        save_file(TENSORS, tmp_path / name)
        assert find_weights(tmp_path) == (tmp_path / name, None)


def test_a_checkpoint_of_a_folder_has_the_folder_s_card(tmp_path: Path) -> None:
    save_weights(tmp_path / CLASSIFIER, TENSORS, CARD)
    for folder, expected in {"checkpoints": CARD, "elsewhere": None}.items():
        (tmp_path / folder).mkdir()
        torch.save(TENSORS, tmp_path / folder / "best.pt")
        assert read_card(tmp_path / folder / "best.pt") == expected


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": '"fcmae.weights.2"'}, r"fcmae\.weights\.2, from a newer version"),
        ({"format": '"fcmae.weights.1"', "model": "{not json"}, "damaged header"),
        ({"format": '"fcmae.weights.1"', "options": "{}"}, "damaged header .*model"),
    ],
)
def test_a_header_that_cannot_be_understood_is_refused_by_file(
    metadata: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors", metadata)
    with pytest.raises(UserError, match=r"w\.safetensors: .*" + message):
        read_card(tmp_path / "w.safetensors")


def test_a_card_is_read_without_torch(tmp_path: Path) -> None:
    save_weights(tmp_path / CLASSIFIER, TENSORS, CARD)
    code = "import sys, pathlib\nfrom fcmae.models.card import read_card\n"
    code += "print(read_card(pathlib.Path(sys.argv[1])).model)\nassert 'torch' not in sys.modules"
    argv = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout == "convnextv2_atto\n"
