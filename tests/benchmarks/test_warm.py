"""What is compiled ahead is what the networks call."""

import pytest
import torch
import warm

from fcmae.models.kernels.calls import Call
from fcmae.models.kernels.choice import OLDEST_TRITON, triton_version


def test_jobs_are_what_both_stages_call_the_longest_first() -> None:
    calls = list(dict.fromkeys(call for call, _ in warm.jobs("convnextv2_tiny", 224)))
    tiles = {("depthwise_tiles", 8 >> i, 8 >> i, 96 << i) for i in range(4)}
    maps = {("depthwise_map", 56 >> i, 56 >> i, 96 << i) for i in range(4)} | {("depthwise_map", 7, 7, 512)}
    widths = {("gelu_grn", 1, 1, 4 * dim) for dim in (96, 192, 384, 768, 512)}
    assert set(calls) == {Call(*each) for each in tiles | maps | widths}  # type: ignore[arg-type]
    assert [call.operation for call in calls[:2]] == ["depthwise_tiles", "depthwise_map"]
    assert {call.operation for call in calls[-6:]} == {"depthwise_tiles", "gelu_grn"}


@pytest.mark.skipif(
    (triton_version() or (0, 0)) < OLDEST_TRITON, reason="Triton is not installed, or too old"
)
@pytest.mark.parametrize(
    "call", [Call("depthwise_tiles", 2, 2, 3), Call("depthwise_map", 8, 4, 3), Call("gelu_grn", 1, 1, 8)]
)
def test_a_job_runs_a_kernel(call: Call) -> None:
    warm.run((call, torch.float32), "cuda" if torch.cuda.is_available() else "cpu", torch.float32)
