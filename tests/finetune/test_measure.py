"""Metrics of a classifier, against scikit-learn's, whatever the batches, processes and broken files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

import fcmae.data.evaluation
from fcmae.core.world import World
from fcmae.data.broken import BrokenList
from fcmae.data.decode import BrokenImage
from fcmae.data.evaluation import EvaluationReader
from fcmae.data.images import ArraySource, Labelled
from fcmae.finetune.measure import Scores, measure

CPU = torch.device("cpu")
N, K = 53, 8


class WithBroken(ArraySource):
    """Images of which number 5 cannot be read."""

    def read(self, i: int) -> torch.Tensor:
        if i == 5:
            raise BrokenImage(Path("5"), "torn")
        return super().read(i)


@pytest.fixture
def problem() -> tuple[Labelled, torch.Tensor]:
    """Images whose pixels hold their number, and logits for each; class 7 has no image."""
    generator = torch.Generator().manual_seed(0)
    images = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 1, 4, 4)
    labels = torch.randint(0, K - 1, (N,), generator=generator)
    logits = torch.randn(N, K, generator=generator) + 2 * torch.nn.functional.one_hot(labels, K)
    return Labelled(WithBroken(images, "image"), labels, [f"class {i}" for i in range(K)]), logits


def reader(batch_size: int) -> EvaluationReader:
    return EvaluationReader((4, 4), 1.0, (0.0,), (1.0,), batch_size, 0, CPU)


def scored(
    problem: tuple[Labelled, torch.Tensor], batch_size: int, broken: BrokenList | None = None
) -> Scores:
    data, logits = problem

    def predict(images: torch.Tensor) -> torch.Tensor:
        return logits[(255 * images[:, 0, 0, 0]).round().long()]

    scores = measure(predict, data, reader(batch_size), confusion=True, broken=broken)
    assert isinstance(scores, Scores)
    return scores


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_metrics_are_those_of_scikit_learn(
    problem: tuple[Labelled, torch.Tensor], batch_size: int, tmp_path: Path
) -> None:
    scores = scored(problem, batch_size, BrokenList(tmp_path / "broken.txt"))
    kept = np.arange(N) != 5
    labels, logits = problem[0].labels.numpy()[kept], problem[1][kept]
    probabilities = logits.double().softmax(1).numpy()
    every = np.arange(K)
    metrics = scores.metrics()
    assert metrics["top1"] == pytest.approx(
        100 * top_k_accuracy_score(labels, probabilities, k=1, labels=every)
    )
    assert metrics["top5"] == pytest.approx(
        100 * top_k_accuracy_score(labels, probabilities, k=5, labels=every)
    )
    assert metrics["val_loss"] == pytest.approx(log_loss(labels, probabilities, labels=every), rel=1e-5)
    predicted = logits.argmax(1).numpy()
    recall = confusion_matrix(labels, predicted, labels=every).diagonal()[:7] / np.bincount(labels)[:7]
    assert metrics["mean_class"] == pytest.approx(100 * recall.mean())
    assert scores.confusion.tolist() == confusion_matrix(labels, predicted, labels=every).tolist()
    assert (tmp_path / "broken.txt").read_text() == "image 5\ttorn\n"


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_parts_of_several_processes_add_up(
    problem: tuple[Labelled, torch.Tensor], monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    alone = scored(problem, 16)
    parts = []
    for rank in range(world):
        monkeypatch.setattr(fcmae.data.evaluation, "current_world", lambda rank=rank: World(rank, world))
        parts.append(scored(problem, 16))
    assert torch.equal(torch.stack([part.confusion for part in parts]).sum(0), alone.confusion)
    assert sum(int(part.top5) for part in parts) == int(alone.top5)
    assert sum(float(part.loss) for part in parts) == pytest.approx(float(alone.loss))
