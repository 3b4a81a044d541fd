"""Runs on archives: bit for bit those on images in folders, and resumed in the middle of an epoch."""

import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from fcmae.finetune.task import FinetuneTask
from fcmae.launch.cli.main import main
from fcmae.pretraining.task import PretrainTask
from tests.data.archives_helper import write_imagenet

TINY: dict[str, Any] = {
    "image_size": 16,
    "epochs": 2,
    "batch_size": 4,
    "device": "cpu",
    "model": "convnextv2_atto",
    "network": {"stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [4, 4, 4, 4]},
    "images": {"workers": 0},
    "loop": {"log_every": 1, "loggers": []},
}
OWN: dict[str, dict[str, Any]] = {
    "pretrain": {"decoder": {"dim": 8}},
    "finetune": {"augment": {"auto_augment": None}},
}


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds ImageNet's downloads, and its training images in folders, beside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_imagenet(tmp_path / "imagenet")
    with tarfile.open(tmp_path / "imagenet" / "ILSVRC2012_img_train.tar") as archive:
        for member in archive:
            with tarfile.open(fileobj=archive.extractfile(member)) as inner:
                inner.extractall(tmp_path / "folders" / member.name.removesuffix(".tar"), filter="data")
    return tmp_path / "imagenet"


def run(kind: str, data: Path, out: str, status: int = 0) -> None:
    Path(f"{kind}.yaml").write_text(yaml.safe_dump({"data": str(data), "out": out, **TINY, **OWN[kind]}))
    assert main([kind, "--config", f"{kind}.yaml"]) == status


def losses(out: str) -> list[float]:
    records = map(json.loads, (Path(out) / "log.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.parametrize(
    ("kind", "task"),
    [("pretrain", PretrainTask), pytest.param("finetune", FinetuneTask, marks=pytest.mark.slow)],
)
def test_a_run_on_archives_is_resumed_exactly(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch, kind: str, task: type
) -> None:
    run(kind, imagenet, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(
            task,
            "optimizer_stepped",
            lambda task, step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None,
        )
        run(kind, imagenet, "stopped", 143)
    run(kind, imagenet, "stopped")
    assert losses("stopped") == losses("whole")
    assert len(losses("whole")) == 12


def test_pre_training_on_archives_is_that_on_folders(imagenet: Path) -> None:
    run("pretrain", imagenet, "run-archives")
    run("pretrain", imagenet.parent / "folders", "run-folders")
    assert losses("run-archives") == losses("run-folders")
    archives, folders = (load_file(f"run-{name}/encoder.safetensors") for name in ("archives", "folders"))
    assert all((archives[name] == folders[name]).all() for name in folders)


def test_a_classifier_is_measured_and_used_on_archives(
    imagenet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("finetune", imagenet, "classifier")
    weights = ["--weights", "classifier", "--device", "cpu", "--workers", "0"]
    tops = []
    for data in ([], ["--data", str(imagenet)], ["--data", str(imagenet / "ILSVRC2012_img_val.tar")]):
        capsys.readouterr()
        assert main(["evaluate", *weights, *data]) == 0
        tops.append(capsys.readouterr().out.splitlines()[:2])
        tops[-1][1] = tops[-1][1].rpartition(",")[0]  # without the speed
    assert tops[0] == tops[1] == tops[2]
    assert tops[0][1] == "12 images, 0 unreadable"
    val = ["--images", str(imagenet / "ILSVRC2012_img_val.tar")]
    assert main(["predict", *weights, *val, "--topk", "1", "--out", "classes.csv"]) == 0
    rows = Path("classes.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0][-13:] for row in rows] == [f"{i + 1:08d}.JPEG" for i in range(12)]
    assert main(["embed", *weights, *val, "--out", "features.npz"]) == 0
