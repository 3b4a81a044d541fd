"""The detection page's code trains as it stands."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae import create_model
from fcmae.models.card import Card
from fcmae.models.storage import save_weights

PAGE = Path(__file__).parents[2] / "docs" / "detection.md"


def test_the_page_trains_a_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    options: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    encoder = create_model("convnextv2_atto", features_only=True, **options)
    known: dict[str, Any] = {"image_size": (128, 128), "mean": (0.4, 0.4, 0.4), "std": (0.25, 0.25, 0.25)}
    card = Card(model="convnextv2_atto", options={"in_chans": 3, "stem_stride": 4, **options}, **known)
    save_weights(Path("encoder.safetensors"), encoder.state_dict(), card)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec("\n".join(blocks[:2]), names)
    body = names["detector"].backbone.body
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(body.state_dict()[name], tensor)
    exec(blocks[2], names)
    losses = names["losses"]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert not torch.equal(
        body.state_dict()["stages.3.0.dwconv.weight"], encoder.state_dict()["stages.3.0.dwconv.weight"]
    )
    names["detector"].eval()
    with torch.no_grad():
        (found,) = names["detector"](names["images"][:1])
    assert found["boxes"].shape[1] == 4
