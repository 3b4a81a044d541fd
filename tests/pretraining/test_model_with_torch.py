"""What PyTorch does to any network, it does to FCMAE in its layouts; the network itself is in tests/models.

Shapes: B batch, C channels, H W pixels.
"""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from fcmae.pretraining.model import FCMAE
from tests.conftest import Randomize
from tests.models.against_timm import SMALL

HIDDEN = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]])


@pytest.fixture(params=["tiles", "masked"])
def model(request: pytest.FixtureRequest, randomize: Randomize) -> FCMAE:
    made = FCMAE("convnextv2_atto", 64, layout=request.param, decoder_dim=16, **SMALL)
    return randomize(made).double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def step(model: FCMAE, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradient of every parameter."""
    model.zero_grad()
    loss = model(images, HIDDEN)[0]
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.detach(), {name: gradient for name, gradient in found.items() if gradient is not None}


def test_gradients_lie_in_memory_as_their_parameters(model: FCMAE, images: Tensor) -> None:
    _, gradients = step(model, images)
    for name, parameter in model.named_parameters():
        assert gradients[name].stride() == parameter.stride(), name


def test_a_copy_after_a_step(model: FCMAE, images: Tensor) -> None:
    expected = step(model, images)
    torch.testing.assert_close(step(copy.deepcopy(model), images), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(model: FCMAE, images: Tensor, dtype: torch.dtype) -> None:
    exact, _ = step(model, images)
    loss, gradients = step(model.to(dtype), images.to(dtype))
    assert {gradient.dtype for gradient in gradients.values()} == {dtype}
    assert loss.item() == pytest.approx(exact.item(), rel=16 * torch.finfo(dtype).eps)


def test_deterministic_algorithms_and_anomaly_detection(model: FCMAE, images: Tensor) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Anomaly Detection has been enabled")
            with torch.autograd.detect_anomaly():
                first = step(model, images)
        torch.testing.assert_close(step(model, images), first, rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)


def test_without_memory() -> None:
    with torch.device("meta"):
        model = FCMAE("convnextv2_atto", 64, decoder_dim=16, **SMALL)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_an_empty_batch(model: FCMAE, images: Tensor) -> None:
    features = model.encoder.forward_stages(images[:0])
    assert [each.shape[0] for each in features] == [0, 0, 0, 0]


def test_pruned_weights(model: FCMAE, images: Tensor) -> None:
    """They are zero in what is computed, before a step and after it."""
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(module, "weight", 0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    step(model, images)
    optimizer.step()
    loss, _ = step(model, images)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.remove(module, "weight")  # for good: the weight is what it should be
    torch.testing.assert_close(model(images, HIDDEN)[0].detach(), loss)
