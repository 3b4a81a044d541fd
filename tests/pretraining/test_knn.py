"""Watching by labels: the accuracy is logged, the training does not notice."""

from pathlib import Path

import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.core.world import World
from fcmae.data.config import ImagesConfig
from fcmae.engine.checkpoint import Checkpoints
from fcmae.models.kernels.calls import Call, record_calls
from fcmae.pretraining.config import DecoderConfig, EncoderConfig, PretrainConfig
from fcmae.pretraining.knn import KnnProbe
from fcmae.pretraining.prepare import prepare
from fcmae.pretraining.task import PretrainTask, pretrain


def config_of(out: Path, probe_data: str | None) -> PretrainConfig:
    """Two epochs on the digits."""
    return PretrainConfig(
        image_size=16,
        epochs=2,
        batch_size=256,
        device="cpu",
        out=str(out),
        pictures_every=2,
        probe_data=probe_data,
        probe_every=2,
        network=EncoderConfig(in_chans=1, stem_stride=1, depths=(1, 1, 1, 1), dims=(4, 4, 8, 8)),
        decoder=DecoderConfig(dim=8),
        images=ImagesConfig(workers=0),
    )


def run(out: Path, probe_data: str | None) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The k-NN accuracies of a run, and its weights."""
    config = config_of(out, probe_data)
    folder = prepare(config)
    pretrain(config, folder)
    state = Checkpoints(out / "checkpoints").newest()
    assert state is not None
    return [record["knn"] for record in folder.records() if "knn" in record], state["model"]


def test_the_encoder_is_watched_and_not_disturbed(tmp_path: Path) -> None:
    accuracies, watched = run(tmp_path / "watched", "digits")
    nothing, alone = run(tmp_path / "alone", None)
    assert nothing == []
    assert len(accuracies) == 1  # epoch 2 of 2
    assert accuracies[0] > 30  # of ten classes: pixels alone are better than chance
    assert all(torch.equal(watched[name], alone[name]) for name in alone)


def test_kernels_that_only_measuring_calls_are_tested_too(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", None)
    task = PretrainTask(config, prepare(config), torch.device("cpu"))
    calls = {call for module, args in task.examples() for call in record_calls(module, *args)}
    assert Call("depthwise_tiles", 8, 8, 4) in calls
    assert Call("depthwise_map", 16, 16, 4) in calls


@pytest.mark.parametrize(
    ("processes", "accumulation_steps", "micro_batch"), [(1, 1, 64), (4, 2, 8), (128, 1, 1)]
)
def test_processes_divide_the_batch(
    processes: int, accumulation_steps: int, micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(batch_size=64, probe_data="digits")
    config.images.workers, config.optim.accumulation_steps = 0, accumulation_steps
    monkeypatch.setattr("fcmae.data.evaluation.current_world", lambda: World(size=processes))
    probe = KnnProbe(config, (8, 8), (0.5,), (0.5,), torch.device("cpu"))
    assert probe.reader.batch_size == micro_batch


def test_data_that_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        prepare(PretrainConfig(image_size=64, out=str(tmp_path / "run"), probe_data="nowhere"))
    assert not (tmp_path / "run").exists()
