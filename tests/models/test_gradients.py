"""Gradients of all kinds: of functions, samples and gradients, forward and backward, beside timm's network.

Shapes: B batch, C channels, H W pixels.
"""

import copy
from collections.abc import Callable

import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap

from fcmae import ConvNeXt, create_model
from tests.models.against_timm import SMALL, assert_same, backward, draw, gradients, names_of

Parameters = dict[str, Tensor]


def score_of(network: nn.Module) -> Callable[[Parameters, Tensor], Tensor]:
    """A loss as a function of the parameters and one image."""
    return lambda parameters, image: functional_call(network, parameters, (image[None],)).square().sum()


def detached(network: nn.Module) -> Parameters:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def assert_same_by_name(ours: ConvNeXt, found: Parameters, expected: Parameters) -> None:
    """Equal to timm's, which may have the same numbers in another shape."""
    for name, other in names_of(ours).items():
        scale = expected[other].abs().max().item()
        assert scale > 0, name
        assert (found[name].flatten() - expected[other].flatten()).abs().max().item() < 1e-9 * scale, name


def test_functional_gradients(ours: ConvNeXt, theirs: TimmConvNeXt, images: Tensor) -> None:
    found, expected = (grad(score_of(each))(detached(each), images[0]) for each in (ours, theirs))
    assert_same_by_name(ours, found, expected)


def test_gradients_of_every_sample(ours: ConvNeXt, theirs: TimmConvNeXt, images: Tensor) -> None:
    found, expected = (
        vmap(grad(score_of(each)), in_dims=(None, 0))(detached(each), images) for each in (ours, theirs)
    )
    assert found["head.weight"].shape == (3, 3, ours.num_features)
    for name, other in names_of(ours).items():
        assert_same(found[name].flatten(1), expected[other].flatten(1))


def test_an_ensemble(ours: ConvNeXt, images: Tensor) -> None:
    others = [ours, copy.deepcopy(ours)]
    with torch.no_grad():
        for parameter in others[1].parameters():
            parameter.mul_(0.9)
    parameters, buffers = stack_module_state(others)
    base = copy.deepcopy(ours).to("meta")

    def logits(parameters: Parameters, buffers: Parameters, images: Tensor) -> Tensor:
        out: Tensor = functional_call(base, (parameters, buffers), (images,))
        return out

    found = vmap(logits, in_dims=(0, 0, None))(parameters, buffers, images)
    assert_same(found, torch.stack([each(images) for each in others]))


def test_forward_mode(ours: ConvNeXt, theirs: TimmConvNeXt, images: Tensor) -> None:
    direction = draw(3, 3, 33, 47).flip(0)
    assert_same(jvp(ours, (images,), (direction,)), jvp(theirs, (images,), (direction,)))


def test_a_jacobian(ours: ConvNeXt, theirs: TimmConvNeXt, images: Tensor) -> None:
    assert_same(jacrev(ours)(images[:1]), jacrev(theirs)(images[:1]))


def test_a_gradient_penalty(ours: ConvNeXt, theirs: TimmConvNeXt, images: Tensor) -> None:
    for network in (ours, theirs):
        pixels = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(pixels).square().sum(), pixels, create_graph=True)
        slope.square().sum().backward()
    found, expected = (
        {name: parameter.grad for name, parameter in each.named_parameters() if parameter.grad is not None}
        for each in (ours, theirs)
    )
    assert_same_by_name(ours, found, expected)


def test_saliency_in_evaluation(ours: ConvNeXt, theirs: TimmConvNeXt, images: Tensor) -> None:
    maps = []
    for network in (ours.eval(), theirs.eval()):
        pixels = images.clone().requires_grad_()
        network(pixels)[:, 0].sum().backward()
        maps.append(pixels.grad)
    assert_same(*maps)


def test_gradients_lie_in_memory_as_their_parameters(ours: ConvNeXt, images: Tensor) -> None:
    """DistributedDataParallel warns where they do not."""
    backward(ours, images)
    backward_of_maps = create_model("convnextv2_atto", features_only=True, **SMALL)
    torch.stack([each.sum() for each in backward_of_maps(torch.randn(2, 3, 64, 64))]).sum().backward()
    for network in (ours, backward_of_maps):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.stride() == parameter.stride(), name


def test_an_empty_batch(ours: ConvNeXt) -> None:
    nothing = torch.zeros(0, 3, 64, 64, dtype=torch.float64)
    logits = ours(nothing)
    assert logits.shape == (0, 3)
    logits.sum().backward()
    assert not any(gradient.any() for gradient in gradients(ours))
