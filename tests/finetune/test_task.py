"""Fine-tuning learns, resumes bit for bit, and keeps the weights of the best epoch."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from fcmae.core.errors import UserError
from fcmae.core.world import World
from fcmae.data.config import ImagesConfig
from fcmae.engine.checkpoint import Checkpoints, load_checkpoint
from fcmae.engine.trainer import train
from fcmae.finetune.config import AugmentConfig
from fcmae.finetune.prepare import prepare
from fcmae.finetune.task import FinetuneTask
from fcmae.models.kernels.calls import Call, record_calls
from tests.finetune.small_run import NETWORK, run_small, small_config

PLAIN = AugmentConfig(auto_augment=None, erase=0.0)
CPU = torch.device("cpu")


def final_state(out: Path) -> dict[str, Any]:
    state = Checkpoints(out / "checkpoints").newest()
    assert state is not None
    return state


def epochs(out: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "epoch_loss" in record]


def assert_same(left: Any, right: Any) -> None:
    """Equal bit for bit, at any depth."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)


def test_it_learns_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    out = tmp_path / "run"
    optim = replace(small_config(out).optim, lr=4e-3)
    run_small(out, train_fraction=0.3, epochs=4, augment=PLAIN, optim=optim, layer_decay=1.0, best="ema_top1")
    records = epochs(out)
    assert len(records) == 4
    assert records[-1]["top1"] > 40  # of ten classes
    best = max(records, key=lambda record: record["ema_top1"])
    file = out / "model.safetensors"
    with safe_open(file, framework="np") as opened:
        metadata = {name: json.loads(value) for name, value in opened.metadata().items()}
    assert metadata["metrics"] == {"ema_top1": best["ema_top1"]}
    assert metadata["class_names"] == [str(i) for i in range(10)]
    assert_same(load_file(file), load_checkpoint(out / "checkpoints" / "best.pt")["ema"])
    assert {path.name for path in out.iterdir()} >= {"config.yaml", "log.jsonl", "curves.png", "tensorboard"}


def test_weights_are_written_while_a_run_goes_on_and_again_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run" / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneTask, "write_results", lambda _: None)  # as if the end never came
        run_small(file.parent, epochs=1, ema_decay=None)
    written = load_file(file)
    file.unlink()
    run_small(file.parent, epochs=1, ema_decay=None)
    assert_same(load_file(file), written)


def test_a_damaged_best_checkpoint_leaves_the_weights_that_were_written_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, run = prepare(small_config(tmp_path, epochs=1, ema_decay=None))
    task = FinetuneTask(config, run, CPU)
    train(task, config, device=CPU, run=run, best=("top1", "max"))
    written = run.classifier.read_bytes()
    best = Checkpoints(run.checkpoints).best
    best.unlink()
    best.write_bytes(b"damaged")
    task.write_results()
    assert run.classifier.read_bytes() == written
    assert "stays as it is" in caplog.text
    run.classifier.unlink()
    with pytest.raises(UserError, match=r"best\.pt: damaged"):
        task.write_results()


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    options = {"optim": replace(small_config(tmp_path).optim, accumulation_steps=2)}
    run_small(tmp_path / "whole", **options)
    # The same settings, killed in the second epoch, after the checkpoint at the end of the first
    code = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from tests.finetune.small_run import run_small, small_config
from fcmae.models.kernels.calls import Call, record_calls
from fcmae.finetune.task import FinetuneTask
stepped = FinetuneTask.optimizer_stepped
def kill(self, step):
    stepped(self, step)
    if step == self.steps_per_epoch + 2:
        os.kill(os.getpid(), signal.SIGKILL)
FinetuneTask.optimizer_stepped = kill
out = Path(sys.argv[1])
run_small(out, optim=replace(small_config(out).optim, accumulation_steps=2))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", code, str(tmp_path / "killed")]
    assert subprocess.run(argv, env=environment, capture_output=True).returncode == -signal.SIGKILL
    assert len(epochs(tmp_path / "killed")) == 1
    run_small(tmp_path / "killed", **options)
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    for part in ("model", "ema", "optimizer"):
        assert_same(whole[part], killed[part])
    assert [each["epoch_loss"] for each in epochs(tmp_path / "whole")] == [
        each["epoch_loss"] for each in epochs(tmp_path / "killed")
    ]


def test_pre_trained_weights_are_where_the_training_starts(tmp_path: Path) -> None:
    run_small(tmp_path / "first", epochs=1)
    init = str(tmp_path / "first")
    config, run = prepare(
        small_config(tmp_path / "second", init=init, model=None, network=replace(NETWORK, depths=None))
    )
    assert (config.model, config.network.depths) == ("convnextv2_atto", (1, 1, 1, 1))
    task = FinetuneTask(config, run, CPU)
    assert_same(task.model.state_dict(), load_file(tmp_path / "first" / "model.safetensors"))


def test_class_weights_do_not_depend_on_how_a_batch_is_cut(tmp_path: Path) -> None:
    network = replace(NETWORK, drop_path_rate=0.0)
    config, run = prepare(
        small_config(tmp_path / "run", balance="loss", augment=PLAIN, network=network, ema_decay=None)
    )
    task = FinetuneTask(config, run, CPU)
    assert task.reader.batch_size == 32
    task.loss_weights = torch.linspace(0.2, 3.0, 10)
    batch = next(iter(task.batches(0, 1)))
    gradients = []
    for parts in (1, 4):
        task.model.zero_grad()
        for numbers in torch.arange(32).chunk(parts):
            part = replace(batch, data=batch.data[numbers], source_index=batch.source_index[numbers])
            (task.step(part)[0] / parts).backward()
        gradients.append(
            [parameter.grad.clone() for parameter in task.model.parameters() if parameter.grad is not None]
        )
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_kernels_of_a_network_of_ours_are_tested_before_the_run(tmp_path: Path) -> None:
    config, run = prepare(small_config(tmp_path / "run"))
    calls = [
        call
        for module, args in FinetuneTask(config, run, CPU).examples()
        for call in record_calls(module, *args)
    ]
    height, width = config.size
    assert Call("depthwise_map", height, width, 8) in calls
    assert Call("gelu_grn", 1, 1, 4 * 24) in calls


def test_evaluation_reads_as_many_images_at_a_time_as_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optim = replace(small_config(tmp_path).optim, accumulation_steps=2)
    config, run = prepare(small_config(tmp_path / "run", optim=optim))
    monkeypatch.setattr("fcmae.data.evaluation.current_world", lambda: World(size=4))
    assert FinetuneTask(config, run, CPU).reader.batch_size == 4


@pytest.mark.parametrize("model", ["frozen", "timm"])
def test_frozen_and_foreign_networks_go_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    if model == "frozen":
        options: dict[str, Any] = {"network": replace(NETWORK, freeze=2, drop_path_rate=0.2)}
    else:
        network = replace(NETWORK, stem_stride=None, depths=None, dims=None)
        options = {"model": "timm:resnet10t", "image_size": 32, "network": network}
    run_small(tmp_path / "whole", **options)
    stepped = FinetuneTask.optimizer_stepped

    def break_off(self: FinetuneTask, step: int) -> None:
        stepped(self, step)
        if step == self.steps_per_epoch + 2:
            raise KeyError("broken off")

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneTask, "optimizer_stepped", break_off)
        with pytest.raises(KeyError):
            run_small(tmp_path / "broken", **options)
    run_small(tmp_path / "broken", **options)
    whole, broken = final_state(tmp_path / "whole"), final_state(tmp_path / "broken")
    for part in ("model", "ema", "optimizer"):
        assert_same(whole[part], broken[part])


@pytest.mark.parametrize("freeze", [1, 2, 4])
def test_frozen_stages_do_not_move(tmp_path: Path, freeze: int) -> None:
    config, run = prepare(small_config(tmp_path / "run", network=replace(NETWORK, freeze=freeze), epochs=1))
    torch.manual_seed(config.seed)
    before = FinetuneTask(config, run, CPU).model.state_dict()
    run._held_lock = None  # let go of the folder
    run_small(tmp_path / "run", network=replace(NETWORK, freeze=freeze), epochs=1)
    after = final_state(tmp_path / "run")["model"]
    for name, tensor in before.items():
        kind, stage = name.split(".")[:2]
        frozen = kind in ("stages", "downsample_layers") and int(stage) < freeze
        assert torch.equal(tensor, after[name]) == frozen, name


def test_checkpointing_changes_memory_and_not_the_weights(tmp_path: Path) -> None:
    kept = {False: 0, True: 0}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[checkpointing] += tensor.nbytes
        return tensor

    for checkpointing in kept:
        network = replace(NETWORK, drop_path_rate=0.2, grad_checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            run_small(tmp_path / str(checkpointing), network=network, epochs=1)
    assert kept[True] < 0.7 * kept[False]
    assert_same(*(final_state(tmp_path / str(each))["model"] for each in kept))


def test_patience_ends_a_run_that_does_not_get_better(tmp_path: Path) -> None:
    optim = replace(small_config(tmp_path).optim, lr=1e-12)  # nothing moves
    summary = run_small(tmp_path / "run", epochs=20, patience=2, optim=optim, ema_decay=None)
    assert len(epochs(tmp_path / "run")) == 3
    assert summary.interrupted is None
    assert (
        run_small(tmp_path / "run", epochs=20, patience=2, optim=optim, ema_decay=None).steps == summary.steps
    )
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_folder_of_classes_keeps_its_split_when_resumed(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, count in {"left": 24, "right": 8}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "left" / "3.png").write_bytes(b"broken")
    options: dict[str, Any] = {
        "data": str(tmp_path / "data"), "train_fraction": 1.0, "batch_size": 8, "balance": "loss",
        "ema_decay": None, "network": replace(NETWORK, in_chans=3), "images": ImagesConfig(workers=2),
    }  # fmt: skip
    run_small(tmp_path / "run", **options)
    assert [
        line.split("\t")[0] for line in (tmp_path / "run" / "broken_images.txt").read_text().splitlines()
    ] == ["left/3.png"]
    (tmp_path / "data" / "right" / "new.png").write_bytes(
        (tmp_path / "data" / "right" / "0.png").read_bytes()
    )
    config = small_config(tmp_path / "run", **options)
    task = FinetuneTask(*prepare(config), CPU)
    names = {
        data.source.name(i) for data in (task.train_data, task.val_data) for i in range(len(data.labels))
    }
    assert len(names) == 32
    assert "right/new.png" not in names
    assert task.loss_weights is not None
    assert task.loss_weights.tolist() == pytest.approx([25 / (2 * 19), 25 / (2 * 6)], rel=0.05)


def test_a_loss_that_overflows_in_fp16_names_the_remedy(tmp_path: Path) -> None:
    config, run = prepare(
        small_config(tmp_path / "run", loop=replace(small_config(tmp_path).loop, precision="fp16"))
    )
    task = FinetuneTask(config, run, CPU)
    weight = task.model.get_parameter("head.weight")
    weight.data = 60000 * torch.randn_like(weight).clamp(-1, 1)  # products are beyond fp16's range
    with pytest.raises(UserError, match=r"step 1 is not finite.*bf16"):
        train(task, config, device=CPU, run=run)
