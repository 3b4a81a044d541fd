"""A mask is its visible patches; from and to the picture of what is hidden.

Shapes: B batch, L = h * w patches.
"""

import pytest
import torch

from fcmae.models.mask import Mask

HIDDEN = torch.tensor([[1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("shape", [(2, 6), (2, 2, 3)])
def test_from_what_is_hidden_and_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    mask = Mask.from_hidden(HIDDEN.view(shape).to(dtype), (2, 3))
    assert mask.visible.tolist() == [[1, 3], [0, 5]]
    assert mask.visible.dtype == torch.int64
    assert mask.grid == (2, 3)
    assert mask.hidden.dtype == torch.float32
    assert torch.equal(mask.hidden, HIDDEN.float())


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (
            torch.tensor([[1, 0, 1, 0], [0, 1, 1, 1]]),
            r"equally many visible patches in every image, not \[1, 2\]",
        ),
        (torch.ones(2, 4), "hides every patch"),
        (torch.zeros(2, 2, 2), "hides nothing"),
        (torch.ones(2, 5), r"a mask of \(2, 5\) is not one of 2 x 2 patches"),
        (torch.ones(2, 4, 1), r"a mask of \(2, 4, 1\) is not"),
    ],
)
def test_what_cannot_be_a_mask_is_refused(hidden: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mask.from_hidden(hidden, (2, 2))


def test_a_mask_moves_with_its_grid() -> None:
    moved = Mask.from_hidden(HIDDEN, (2, 3)).to(torch.device("meta"))
    assert moved.visible.is_meta
    assert moved.hidden.is_meta
    assert moved.grid == (2, 3)
