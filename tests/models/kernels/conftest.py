"""What the tests of kernels share: fresh memory full of NaN, so that what is never written shows; tracing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func  # type: ignore[import-untyped]
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd

Trace = Callable[[Callable[..., Tensor], list[Tensor]], list[list[str]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is a GPU, the tests of Triton kernels run there."""
    for item in items:
        on_gpu = torch.cuda.is_available() and item.path.parent == Path(__file__).parent
        if on_gpu and ("triton" in item.path.stem or item.path.stem == "test_selftest"):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Let torch fill all uninitialised memory with NaN, which it does in deterministic mode."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(64).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def trace() -> Trace:
    """A function that compiles an operation: our launches in each graph, forward and then backward.

    It fails where the forward pass is more than one graph, or a compiled result is not the eager one.
    """

    def traced(operation: Callable[..., Tensor], inputs: list[Tensor]) -> list[list[str]]:
        graphs: list[list[str]] = []

        def remember(graph: fx.GraphModule, _: object) -> Callable[..., object]:
            names = [str(node.target) for node in graph.graph.nodes]
            graphs.append([name.split(".")[1] for name in names if name.startswith("fcmae.")])
            boxed: Callable[..., object] = make_boxed_func(graph)
            return boxed

        torch._dynamo.reset()
        backend = aot_autograd(fw_compiler=remember, bw_compiler=remember)
        results = []
        for run in (operation, torch.compile(operation, backend=backend, fullgraph=True)):
            out = run(*inputs)
            results.append((out, *torch.autograd.grad(out, inputs, torch.ones_like(out))))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)
        return graphs

    return traced
