"""What features are worth without labels: the measures are right, fixed, and cost the training nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcmae.core.world import World
from fcmae.data.config import ImagesConfig
from fcmae.data.images import ArraySource
from fcmae.data.transforms import resize_center_crop, to_float
from fcmae.models.collapse import channel_distance
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.mask import Mask
from fcmae.pretraining import quality
from fcmae.pretraining.config import DecoderConfig, EncoderConfig, PretrainConfig
from fcmae.pretraining.masking import random_mask
from fcmae.pretraining.model import FCMAE
from fcmae.pretraining.prepare import prepare
from fcmae.pretraining.quality import Quality, count_sampled, effective_rank, encode, evenly_spaced, hold_out
from fcmae.pretraining.task import pretrain
from tests.conftest import Randomize
from tests.models.resnet import ResNet18

SIZE: dict[str, Any] = {"stem_stride": 1, "depths": (1, 1, 1, 1), "dims": (4, 4, 8, 8)}
MEAN, STD = (0.5,), (0.25,)


def images(count: int) -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    return ArraySource(torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=generator))


def model() -> FCMAE:
    torch.manual_seed(3)
    return FCMAE("convnextv2_atto", image_size=16, decoder_dim=8, in_chans=1, **SIZE)


def prepared(source: ArraySource) -> torch.Tensor:
    return to_float(torch.stack([resize_center_crop((16, 16))(image) for image in source.images]), MEAN, STD)


def measure_of(sample: ArraySource, held_out: Any, batch_size: int = 3) -> Quality:
    config = PretrainConfig(batch_size=batch_size)
    return Quality(config, sample, held_out, (16, 16), MEAN, STD, torch.device("cpu"))


def test_the_rank_is_one_where_all_are_alike_and_full_where_none_are() -> None:
    alike = torch.ones(6, 1) * torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    assert effective_rank(alike) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.eye(5)) == pytest.approx(5, abs=1e-4)
    fractions = np.array([0.5, 0.3, 0.2])
    expected = math.exp(-(fractions * np.log(fractions)).sum())
    assert effective_rank(torch.diag(torch.tensor([5.0, 3.0, 2.0]))) == pytest.approx(expected, abs=1e-4)


def test_images_that_are_held_out_are_not_trained_on() -> None:
    kept, held = hold_out(images(10), 3)
    names = [[source.name(i) for i in range(len(source))] for source in (kept, held)]
    assert names[1] == ["image 0", "image 3", "image 6"]
    assert sorted(names[0] + names[1]) == sorted(f"image {i}" for i in range(10))
    everything, none = hold_out(images(10), 0)
    assert (len(everything), len(none)) == (10, 0)


@pytest.mark.parametrize(
    ("given", "expected"), [(None, {399: 0, 400: 8, 1797: 35, 14_000_000: 256}), (5, {10: 5})]
)
def test_how_many_are_held_out(given: int | None, expected: dict[int, int]) -> None:
    config = PretrainConfig(held_out=given)
    assert {count: config.count_held_out(count) for count in expected} == expected


@pytest.mark.parametrize(("count", "every"), [(500, 10), (1797, 10), (1_281_167, 1), (50_000, 1)])
def test_measuring_is_cheap(count: int, every: int) -> None:
    assert 0 < count_sampled(count, every) <= min(256, 0.02 * count * every)


def test_the_metrics_are_those_of_the_model() -> None:
    sample, held_out, network = images(7), images(5), model()
    metrics = measure_of(sample, held_out).measure(network)
    normalised = prepared(sample)
    with torch.no_grad():
        features, distances = encode(network, normalised)
        maps = network.encoder.forward_features(normalised)
    assert metrics["rank"] == pytest.approx(effective_rank(features), rel=1e-5)
    assert metrics["distance4"] == pytest.approx(float(distances[:, 3].mean()), rel=1e-5)
    assert distances.shape == (7, 4)
    assert maps.shape[1] == 8
    losses = []
    for i in range(5):
        mask = random_mask(1, network.grid, network.num_visible, torch.Generator().manual_seed(i + 1))
        with torch.no_grad():
            image = prepared(held_out)[i : i + 1]
            losses.append(float(network(image, Mask(mask.visible, network.grid))[0]))
    assert metrics["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_processes_measure_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, held_out, network = images(7), images(5), model()
    alone = measure_of(sample, held_out).measure(network)
    gathered: list[list[torch.Tensor]] = []

    def keep(rows: list[torch.Tensor]) -> list[torch.Tensor]:
        gathered.append(rows)
        return rows

    monkeypatch.setattr(quality, "gather_lists", keep)
    for rank in range(3):
        monkeypatch.setattr(quality, "current_world", lambda rank=rank: World(rank=rank, size=3))
        measure_of(sample, held_out).measure(network)
    features, errors = gathered[::2], gathered[1::2]
    assert {len(rows) for rows in features} == {1}  # equally many batches
    rows = [row for each in features for row in each]
    monkeypatch.setattr(quality, "gather_lists", lambda _: rows)
    together = quality.gather_rows([])
    assert together[:, 0].tolist() == list(range(7))
    assert effective_rank(together[:, 5:]) == pytest.approx(alone["rank"], rel=1e-5)
    rows = [row for each in errors for row in each]
    monkeypatch.setattr(quality, "gather_lists", lambda _: rows)
    assert float(quality.gather_rows([])[:, 1].mean()) == pytest.approx(alone["val_loss"], rel=1e-5)


def test_an_encoder_that_is_no_convnext_is_measured_by_its_last_map(randomize: Randomize) -> None:
    encoder = randomize(ResNet18())
    network = FCMAE(encoder, image_size=64, layout="masked", decoder_dim=8)
    with torch.no_grad():
        features, distances = encode(network.eval(), torch.randn(2, 3, 64, 64))
        maps = encoder.forward_features(torch.randn(2, 3, 64, 64), DenseLayout())
    assert features.shape == (2, 512)
    assert distances.shape == (2, 1)
    assert channel_distance(maps.permute(0, 2, 3, 1)).shape == (2,)


def test_a_run_is_watched_and_not_disturbed(tmp_path: Path) -> None:
    states = []
    for every in (1, 2):
        config = PretrainConfig(
            image_size=16,
            epochs=2,
            batch_size=256,
            device="cpu",
            out=str(tmp_path / str(every)),
            probe_every=every,
            network=EncoderConfig(in_chans=1, **SIZE),
            decoder=DecoderConfig(dim=8),
            images=ImagesConfig(workers=0),
        )
        run = prepare(config)
        pretrain(config, run)
        measured = [record["epoch"] for record in run.records() if "rank" in record]
        assert measured == ([1, 2] if every == 1 else [2])
        assert all(0 < record["val_loss"] < 2 for record in run.records() if "rank" in record)
        states.append(torch.load(run.path / "checkpoints/step_000000012.pt", weights_only=True)["model"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_numbers_are_evenly_spaced() -> None:
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7]
