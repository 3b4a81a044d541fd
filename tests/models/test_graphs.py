"""Graphs of the network: torch.fx, torch.export, ONNX, torch.compile. One graph takes what the network takes.

Shapes: B batch, C channels, H W pixels.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.export import Dim
from torchvision.models.feature_extraction import create_feature_extractor

from fcmae import ConvNeXt, create_model
from tests.conftest import Randomize
from tests.models.against_timm import SMALL, assert_same, backward, draw

# A map of one position is another graph to PyTorch: free sizes start at two strides, as with timm's network.
FREE: dict[str, Any] = {
    "named": {"images": {0: Dim("batch"), 2: Dim("height", min=64), 3: Dim("width", min=64)}},
    "inferred": {"images": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}},
}
SIZES = [(1, 64, 64), (2, 70, 100), (3, 65, 161)]


def pictures() -> list[Tensor]:
    return [draw(batch, 3, height, width) for batch, height, width in SIZES]


def test_fx_and_torchvision_s_feature_extractor(ours: ConvNeXt, images: Tensor) -> None:
    """One graph for every size; a stage's node gives positions with their channels last, as blocks do."""
    graph = torch.fx.symbolic_trace(ours)
    nodes = {"stages.1": "early", "norm": "pooled", "head": "logits"}
    extractor = create_feature_extractor(ours, nodes)
    for each in pictures():
        assert_same(graph(each), ours(each))
        found = extractor(each)
        assert_same(found["logits"], ours(each))
        assert_same(found["pooled"], ours.forward_head(ours.forward_features(each), pre_logits=True))
        early = ours.forward_intermediates(each, [1], intermediates_only=True)
        assert_same(found["early"].permute(0, 3, 1, 2), early[0])
    assert_same(backward(graph, images), backward(copy.deepcopy(ours), images))


@pytest.fixture
def images() -> Tensor:
    return draw(2, 3, 70, 100)


@pytest.mark.parametrize("dims", FREE)
def test_export_with_free_sizes(ours: ConvNeXt, images: Tensor, dims: str) -> None:
    program = torch.export.export(ours.eval(), (images,), dynamic_shapes=FREE[dims])
    module = program.module()
    for each in pictures():
        assert_same(module(each), ours(each))
    with pytest.raises(AssertionError, match=r"size\(\)\[2\] >= 64"):
        module(draw(1, 3, 63, 64))


def test_export_of_maps(randomize: Randomize, images: Tensor) -> None:
    network = randomize(create_model("convnextv2_atto", features_only=True, **SMALL)).double()
    module = torch.export.export(network, (images,), dynamic_shapes=FREE["named"]).module()
    for each in pictures():
        assert_same(module(each), network(each))


def test_onnx_with_free_sizes(images: Tensor, tmp_path: Path, randomize: Randomize) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = randomize(create_model("convnextv2_atto", num_classes=3, **SMALL)).eval()
    program = torch.onnx.export(
        network, (images.float(),), dynamic_shapes=FREE["named"], dynamo=True, verbose=False
    )
    assert program is not None
    program.save(tmp_path / "network.onnx")
    session = runtime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert [type(size) for size in given.shape] == [str, int, str, str]
    for each in pictures():
        (found,) = session.run(None, {given.name: each.float().numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(each.float()), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [True, None])
def test_one_graph_with_its_gradient_for_every_size(randomize: Randomize, dynamic: bool | None) -> None:
    """Without PyTorch's own compiler behind it: `fullgraph` refuses breaks. By default sizes become free."""
    network = randomize(
        create_model("convnextv2_atto", num_classes=3, depths=(1, 1, 1, 1), dims=(4, 5, 6, 7))
    )
    plain = copy.deepcopy(network.double())
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    network.compile(fullgraph=True, dynamic=dynamic, backend=counter)
    graphs = []
    for batch, height, width in ((2, 70, 100), (3, 65, 161), (5, 128, 96)):
        each = draw(batch, 3, height, width)
        assert_same(backward(network, each), backward(plain, each))
        graphs.append(counter.frame_count)
    assert graphs[1:] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto"])
def test_compile_with_default_arguments(name: str, randomize: Randomize) -> None:
    """On the CPU, in training and evaluation, and with a second batch size."""
    torch._dynamo.reset()
    network = randomize(create_model(name, num_classes=3, depths=(1, 1, 1, 1), dims=(40, 80, 160, 320)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.2)
    plain = copy.deepcopy(network)
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
    for batch in (8, 5):
        pixels = torch.randn(batch, 3, 64, 64)
        torch.testing.assert_close(compiled(pixels), plain(pixels), rtol=1e-3, atol=1e-4)
        for found, expected in zip(backward(compiled, pixels), backward(plain, pixels), strict=True):
            assert (found - expected).norm() < 1e-3 * expected.norm()
    compiled.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(pixels), plain.eval()(pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 31, 64), torch.zeros(1, 4, 64, 64)])
def test_wrong_images_are_refused_in_graphs_too(images: Tensor, ours: ConvNeXt) -> None:
    network = ours.float()
    for graph in (torch.compile(network, backend="eager"), torch.fx.symbolic_trace(network)):
        with pytest.raises(ValueError, match=r"31 x 64 are smaller|4 channels, the network takes 3"):
            graph(images)
    with pytest.raises(Exception, match=r"31 x 64 are smaller|4 channels, the network takes 3"):
        torch.export.export(network, (images,))
