"""The learning rate against values worked out by hand and against PyTorch's own schedulers."""

from itertools import pairwise

import pytest
import torch

from fcmae.engine.config import OptimConfig
from fcmae.engine.schedule import learning_rate


def rates(config: OptimConfig, epochs: int, batch_size: int = 256, steps_per_epoch: int = 4) -> list[float]:
    return [
        learning_rate(
            step, config=config, batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs
        )
        for step in range(epochs * steps_per_epoch + 1)
    ]


def test_warms_up_from_zero_in_equal_steps() -> None:
    config = OptimConfig(base_lr=0.8, warmup_epochs=2)
    assert rates(config, epochs=10)[:9] == pytest.approx([0.1 * step for step in range(9)])


def test_peak_is_base_rate_times_batch_over_256() -> None:
    config = OptimConfig(base_lr=1.5e-4, warmup_epochs=1)
    assert max(rates(config, epochs=3, batch_size=4096)) == pytest.approx(2.4e-3)


def test_cosine_ends_at_the_minimum_whatever_the_batch_and_never_rises() -> None:
    config = OptimConfig(base_lr=1.0, min_lr=0.1, warmup_epochs=0)
    found = rates(config, epochs=5, batch_size=512)
    assert found[0] == pytest.approx(2.0)
    assert found[-1] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(found))


def test_cosine_agrees_with_pytorch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.01)
    expected = []
    for _ in range(21):
        expected.append(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()
    config = OptimConfig(base_lr=0.5, min_lr=0.01, warmup_epochs=0)
    assert rates(config, epochs=5) == pytest.approx(expected)


def test_steps_multiply_by_gamma() -> None:
    config = OptimConfig(base_lr=1.0, warmup_epochs=0, schedule="step", step_epochs=1.5, step_gamma=0.5)
    assert rates(config, epochs=4)[:13] == pytest.approx([1.0] * 6 + [0.5] * 6 + [0.25])


def test_fractions_of_an_epoch_can_warm_up() -> None:
    config = OptimConfig(base_lr=1.0, warmup_epochs=0.5)
    assert rates(config, epochs=2)[:3] == pytest.approx([0.0, 0.5, 1.0])
