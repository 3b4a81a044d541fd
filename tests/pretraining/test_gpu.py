"""A pre-training step on a GPU: the kernels that a run trusts, compiled, and in CUDA graphs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fcmae.engine.precision import autocast
from fcmae.models.kernels.choice import kernels
from fcmae.models.kernels.selftest import self_test
from fcmae.models.mask import Mask
from fcmae.pretraining.masking import random_mask
from fcmae.pretraining.model import FCMAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
Randomize = Callable[[FCMAE], FCMAE]
GPU = torch.device("cuda")
SMALL: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (40, 64, 96, 128), "decoder_dim": 64}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_pass_their_self_test(dtype: torch.dtype) -> None:
    model = FCMAE("convnextv2_atto", 224, **SMALL)
    images = torch.empty(1, 3, 224, 224, device="meta")
    assert self_test(GPU, dtype, [*model.examples(), (model.encoder, (images,))])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("options", [{}, {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}])
def test_compiled_steps_with_triton_are_the_eager_steps_of_pytorch(
    precision: str, options: dict[str, Any], randomize: Randomize
) -> None:
    """Three steps, since CUDA graphs are recorded in the second call and replayed in the third."""
    torch._dynamo.reset()
    model = randomize(FCMAE("convnextv2_atto", 224, **SMALL)).to(GPU)
    generator = torch.Generator().manual_seed(0)
    budget = 3e-3 if precision == "float32" else 1e-1  # convolutions round to TF32
    compiled = torch.compile(model, options=options, fullgraph=True)

    def step(network: Callable[..., tuple[Tensor, ...]], impl: str, images: Tensor, mask: Mask) -> Tensor:
        """All gradients, one after another, and the loss, in float64."""
        torch.compiler.cudagraph_mark_step_begin()
        with kernels(impl):  # type: ignore[arg-type]
            with autocast(precision, GPU):
                loss = network(images, mask)[0]
            loss.backward()
        gradients = [each.grad.flatten().double() for each in model.parameters() if each.grad is not None]
        flat = torch.cat([*gradients, loss.detach().double().view(1)])
        model.zero_grad()
        return flat

    for _ in range(3):
        images = torch.randn(4, 3, 224, 224, generator=generator).to(GPU)
        mask = random_mask(4, model.grid, model.num_visible, generator).to(GPU)
        expected = step(model, "torch", images, mask)
        found = step(compiled, "triton", images, mask)
        assert (found - expected).norm() < budget * expected.norm()
