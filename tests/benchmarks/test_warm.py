"""What is compiled ahead is what the networks call."""

from pathlib import Path

import pytest
import torch

from models.kernels.choice import OLDEST_TRITON, triton_version

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_jobs_are_tiles_maps_and_widths_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import warm

    shapes = {job[:3] for job in warm.jobs("convnextv2_tiny", 224)}
    tiles = {("tiles", 8, 96), ("tiles", 4, 192), ("tiles", 2, 384), ("tiles", 1, 768)}
    maps = {("map", 56, 96), ("map", 28, 192), ("map", 14, 384), ("map", 7, 768), ("map", 7, 512)}
    widths = {("grn", 1, 4 * dim) for dim in (96, 192, 384, 768, 512)}
    assert shapes == tiles | maps | widths


@pytest.mark.skipif(
    (triton_version() or (0, 0)) < OLDEST_TRITON, reason="Triton is not installed, or too old"
)
@pytest.mark.parametrize("job", [("tiles", 2, 3), ("map", 4, 3), ("grn", 1, 8)])
def test_a_job_calls_a_kernel(job: tuple[str, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import warm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    warm.call((*job, torch.float32), device, torch.float32)
