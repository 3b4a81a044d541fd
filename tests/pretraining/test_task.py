"""Pre-training from command to run folder: it learns, loses nothing when stopped, survives broken files."""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from fcmae import create_model
from fcmae.core.settings import read_settings
from fcmae.engine.checkpoint import Checkpoints
from fcmae.launch.cli.main import main
from fcmae.pretraining.config import EncoderConfig, PretrainConfig
from fcmae.pretraining.prepare import prepare
from fcmae.pretraining.task import PretrainTask

NUM_IMAGES, EPOCHS, STEPS_PER_EPOCH = 26, 6, 6
RECIPE = {
    "image_size": 32,
    "epochs": EPOCHS,
    "batch_size": 4,
    "network": {"stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [16, 16, 24, 32]},
    "mask_ratio": 0.5,
    "decoder": {"dim": 64},
    "optim": {"lr": 0.005},
    "images": {"workers": 0, "crop_scale": [0.5, 1.0]},
    "augment": {"color_jitter": 0.1, "grey": 0.1, "blur": 0.1, "channel_drop": 0.05},
    "loop": {"log_every": 1},
}
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from fcmae.launch.cli.main import main; sys.exit(main(sys.argv[1:]))",
]
KILLED_DURING_STEP_9 = """
import os, signal, sys
from fcmae.pretraining.task import PretrainTask
from fcmae.launch.cli.main import main

def stepped(self, step):
    if step == 9:
        os.kill(os.getpid(), signal.SIGKILL)

PretrainTask.optimizer_stepped = stepped
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that can be learned, stripes of any direction, and a recipe for them."""
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] / 48
    for i in range(NUM_IMAGES):
        angle, phase = generator.uniform(0, 2 * np.pi, 2)
        wave = np.sin(9 * (x * np.cos(angle) + y * np.sin(angle)) + phase)
        pixels = (127.5 + 120 * wave[..., None] * generator.uniform(0.3, 1, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:02}.{'png' if i % 2 else 'jpg'}")
    write_recipe(folder / "recipe.yaml", folder / "images")
    return folder


def write_recipe(path: Path, data: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump({"data": str(data), **RECIPE, **changes}))


@pytest.fixture(autouse=True)
def _cache_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arguments(folder: Path, run: Path, *options: str) -> list[str]:
    return ["pretrain", "--config", str(folder / "recipe.yaml"), "--out", str(run), *options]


@pytest.fixture(scope="module")
def finished(folder: Path) -> tuple[Path, str]:
    """The folder of a run that was never interrupted, and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(arguments(folder, folder / "run")) == 0
    return folder / "run", printed.getvalue()


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    """The loss of every step."""
    return [record["loss"] for record in records(run) if "loss" in record]


def newest_state(run: Path) -> dict[str, Any]:
    state = Checkpoints(run / "checkpoints").newest()
    assert state is not None
    return state


def encoder_of(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metadata of the exported encoder."""
    path = run / "encoder.safetensors"
    with safe_open(path, "pt") as file:
        metadata = {name: json.loads(text) for name, text in file.metadata().items()}
    return load_file(path), metadata


def assert_same_encoder(run: Path, other: Path) -> None:
    """Bit for bit."""
    assert (run / "encoder.safetensors").read_bytes() == (other / "encoder.safetensors").read_bytes()


def test_the_loss_goes_down(finished: tuple[Path, str]) -> None:
    run, _ = finished
    curve = losses(run)
    assert len(curve) == EPOCHS * STEPS_PER_EPOCH
    assert curve[0] == pytest.approx(1.0, abs=0.1)
    assert np.mean(curve[-STEPS_PER_EPOCH:]) < 0.8 * np.mean(curve[:STEPS_PER_EPOCH])


def test_data_by_the_name_that_timm_knows(tmp_path: Path, folder: Path) -> None:
    """The training images alone: 8 of them, where all would be 12."""
    for i, path in enumerate(sorted((folder / "images").iterdir())[:12]):
        target = tmp_path / ("train" if i < 8 else "val") / f"class{i % 2}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    write_recipe(tmp_path / "recipe.yaml", tmp_path, epochs=1)
    argv = [
        "--data",
        "timm:torch/image_folder",
        "--data-root",
        str(tmp_path),
        "--out",
        str(tmp_path / "run"),
    ]
    command = ["pretrain", "--config", str(tmp_path / "recipe.yaml"), "--device", "cpu", *argv]
    assert main(command) == 0
    assert max(record["step"] for record in records(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "encoder.safetensors").exists()
    assert main([*command[:-1], str(tmp_path / "large"), "--batch-size", "9"]) == 2


def test_a_run_folder_holds_all_there_is_to_see(finished: tuple[Path, str], folder: Path) -> None:
    run, printed = finished
    assert read_settings(PretrainConfig, run / "config.yaml").model_options()["dims"] == (16, 16, 24, 32)
    epochs = [record for record in records(run) if "epoch_loss" in record]
    assert [record["epoch"] for record in epochs] == list(range(1, EPOCHS + 1))
    assert list((run / "tensorboard").glob("events.*"))
    for picture in ("curves.png", "reconstructions.png"):
        with Image.open(run / picture) as image:
            assert min(image.size) > 100
    assert not (run / "broken_images.txt").exists()
    assert re.match(f".* on 26 images of {folder / 'images'}, 32 x 32, [a-z]+; run folder: {run}\n", printed)
    assert f"run folder       {run}" in printed
    assert "unreadable" not in printed
    assert f"{losses(run)[0]:.3f} at first, {epochs[-1]['epoch_loss']:.3f} in the last epoch" in printed
    assert str(run / "reconstructions.png") in printed


def test_the_exported_encoder_is_the_models_and_says_how_to_make_it(finished: tuple[Path, str]) -> None:
    run, _ = finished
    weights, metadata = encoder_of(run)
    network = create_model(metadata["model"], features_only=True, **metadata["options"])
    network.load_state_dict(weights)
    trained = newest_state(run)["model"]
    assert {name for name in trained if name.startswith("encoder.")} == {
        f"encoder.{name}" for name in weights
    }
    assert all(torch.equal(each, trained[f"encoder.{name}"]) for name, each in weights.items())
    assert metadata["image_size"] == [32, 32]
    assert len(metadata["mean"]) == len(metadata["std"]) == 3


def test_reconstruct_draws_any_folder(finished: tuple[Path, str], folder: Path, tmp_path: Path) -> None:
    run, _ = finished
    picture = tmp_path / "picture.png"
    argv = [
        "reconstruct",
        str(run),
        "--images",
        str(folder / "images"),
        "--out",
        str(picture),
        "--count",
        "3",
    ]
    assert main(argv) == 0
    with Image.open(picture) as image:
        assert min(image.size) > 100


def test_a_run_that_is_finished_changes_no_more(
    finished: tuple[Path, str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    shutil.copytree(run, tmp_path / "before")
    assert main(arguments(folder, run)) == 0
    assert f"done: {EPOCHS * STEPS_PER_EPOCH} steps" in capsys.readouterr().out
    assert records(run) == records(tmp_path / "before")
    assert_same_encoder(run, tmp_path / "before")


@pytest.mark.slow
def test_killed_in_mid_epoch_and_started_again_it_ends_bit_for_bit_the_same(
    finished: tuple[Path, str], folder: Path, tmp_path: Path
) -> None:
    """The kill loses step 9, the third of the second epoch; then images are read in another process, too."""
    argv = arguments(folder, tmp_path / "run", "--loop.save-minutes", "1e-9")
    killed = subprocess.run([sys.executable, "-c", KILLED_DURING_STEP_9, *argv], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert newest_state(tmp_path / "run")["progress"]["step"] == 8
    assert main([*argv, "--images.workers", "1"]) == 0
    expected, _ = finished
    assert losses(tmp_path / "run") == losses(expected)
    assert_same_encoder(tmp_path / "run", expected)


@pytest.mark.slow
def test_sigterm_to_the_whole_job_saves_and_exits_with_143(folder: Path, tmp_path: Path) -> None:
    """The readers are signalled too, as a cluster does, and must not end the run in a traceback."""
    run = tmp_path / "run"
    argv = arguments(folder, run, "--epochs", "10000", "--images.workers", "1")
    job = subprocess.Popen(
        [*COMMAND, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (run / "log.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGTERM)
        out, error = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 143
    assert "Traceback" not in error
    newest = Checkpoints(run / "checkpoints").newest()
    assert newest is not None
    assert (
        f"stopped after step {newest['progress']['step']}, saved; the same command goes on with {run}" in out
    )


def test_layouts_learn_the_same(folder: Path, tmp_path: Path) -> None:
    for layout in ("tiles", "masked"):
        assert main(arguments(folder, tmp_path / layout, "--layout", layout, "--epochs", "2")) == 0
    assert losses(tmp_path / "tiles") == pytest.approx(losses(tmp_path / "masked"), rel=1e-3)


def test_a_broken_image_costs_one_image_and_is_listed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when the run is interrupted after an epoch that met it, and meets it again."""
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((folder / "images").iterdir())[:8]:
        (images / path.name).write_bytes(path.read_bytes())
    damaged = images / "03.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    write_recipe(tmp_path / "recipe.yaml", images, epochs=2)
    argv = arguments(tmp_path, tmp_path / "run")
    drawn: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            PretrainTask,
            "optimizer_stepped",
            lambda task, step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None,
        )
        patch.setattr(PretrainTask, "draw_reconstructions", lambda task: drawn.append("reconstructions"))
        patch.setattr("fcmae.engine.trainer.draw_curves", lambda *_: drawn.append("curves"))
        assert main(argv) == 143
    assert not drawn  # a job that is stopped notes so first of all
    assert main(argv) == 0
    (line,) = (tmp_path / "run" / "broken_images.txt").read_text().splitlines()
    assert line.startswith("03.png\t")
    listed = tmp_path / "run" / "broken_images.txt"
    assert f"\n  unreadable       1 of 8 images, listed in {listed}\n" in capsys.readouterr().out
    epochs = [record for record in records(tmp_path / "run") if "epoch_loss" in record]
    assert [record["broken_images"] for record in epochs] == [1, 1]
    assert all(np.isfinite(record["epoch_loss"]) for record in epochs)


@pytest.mark.parametrize("norm_pix_loss", ["true", "false"])
def test_no_data_changes_no_bit_of_a_run(tmp_path: Path, norm_pix_loss: str) -> None:
    """Whatever value says that nothing was measured, and with a run of bands as with one of colours."""
    rng = np.random.default_rng(0)
    images = rng.random((8, 40, 40, 2)).astype(np.float32)
    gaps = np.zeros(images.shape, bool)
    gaps[:, :30, :25] = True
    outcomes = []
    for value in ("nan", "-9999"):
        folder, run = tmp_path / f"images{value}", tmp_path / f"run{value}"
        folder.mkdir()
        for number, image in enumerate(np.where(gaps, np.float32(value), images)):
            np.save(folder / f"{number}.npy", image)
        write_recipe(tmp_path / "recipe.yaml", folder, epochs=2)
        options = [
            "--network.in-chans",
            "2",
            "--augment.grey",
            "0",
            "--images.turns",
            "true",
            "--norm-pix-loss",
            norm_pix_loss,
        ]
        assert main([*arguments(tmp_path, run, *options), "--images.no-data", value]) == 0
        outcomes.append((losses(run), encoder_of(run)[0]))
        mean = images[~gaps].reshape(-1, 2).mean(0)
        assert encoder_of(run)[1]["mean"] == pytest.approx(mean, rel=0.02)
        assert (encoder_of(run)[1]["no_data"], (run / "statistics.json").exists()) == (
            value if value == "nan" else -9999,
            True,
        )
        assert (run / "reconstructions.png").exists()
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(tensor, outcomes[1][1][name]) for name, tensor in outcomes[0][1].items())


def test_built_in_digits(tmp_path: Path) -> None:
    """One channel, no folder: the loss falls within an epoch."""
    network = {**RECIPE["network"], "in_chans": 1}  # type: ignore[dict-item]
    changes: dict[str, Any] = {"epochs": 1, "batch_size": 64, "network": network, "augment": {}}
    write_recipe(tmp_path / "recipe.yaml", Path("digits"), **changes)
    assert main(arguments(tmp_path, tmp_path / "run")) == 0
    curve = losses(tmp_path / "run")
    assert len(curve) == (1797 - 35) // 64  # one image of 50 is held out
    assert curve[-1] < 0.9 * curve[0]


def test_workers_can_be_spawned(tmp_path: Path) -> None:
    config = PretrainConfig(image_size=32, batch_size=8, device="cpu", out=str(tmp_path / "run"))
    config.network = EncoderConfig(in_chans=1, stem_stride=1, depths=(1, 1, 1, 1), dims=(4, 4, 8, 8))
    config.decoder.dim, config.augment.color_jitter = 8, 0.1
    dataset = PretrainTask(config, prepare(config), torch.device("cpu")).dataset
    there = pickle.loads(pickle.dumps(dataset))
    ours, theirs = dataset[2, 7].data, there[2, 7].data
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert ours[2] == theirs[2]
    assert ours[2].keys() == {"brightness", "contrast"}
