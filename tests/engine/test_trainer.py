"""A run can be stopped anywhere and ends the same; what is not finite stops it and is never saved."""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.engine.checkpoint import Checkpoints, load_checkpoint
from fcmae.engine.config import OptimConfig
from fcmae.engine.history import RunSettings
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.schedule import learning_rate
from fcmae.engine.trainer import Trainer
from tests.engine.toy_run import BATCH, EPOCHS, STEPS_PER_EPOCH, ToyTask, run_toy, toy_config

TOTAL = EPOCHS * STEPS_PER_EPOCH
EVERY_STEP = 1e-9  # minutes between two checkpoints


def final_state(folder: Path) -> dict[str, Any]:
    state = Checkpoints(folder / "checkpoints").newest()
    assert state is not None
    assert state["progress"].pop("seconds") > 0
    for group in state["optimizer"]["param_groups"]:
        group["params"] = len(group["params"])  # assert_close does not compare names
    return state


def logged(folder: Path, name: str) -> list[Any]:
    return [record[name] for record in RunFolder(folder).records() if name in record]


def assert_same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"accumulation_steps": 2, "clip_grad": 0.05},
    {"precision": "bf16", "schedule": "step", "step_epochs": 1.0},
    {"precision": "fp16", "accumulation_steps": 2, "clip_grad": 0.05},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, options: dict[str, Any]) -> None:
    accumulation_steps = options.get("accumulation_steps", 1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = run_toy(whole, ToyTask(accumulation_steps), **options)
    doomed = ToyTask(accumulation_steps, signal_after=(8, signal.SIGKILL))
    settings = {**options, "save_minutes": EVERY_STEP}
    process = multiprocessing.get_context("spawn").Process(
        target=run_toy, args=(killed, doomed), kwargs=settings
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert Checkpoints(killed / "checkpoints").files()[-1].name == "step_000000007.pt"  # in mid-epoch

    resumed = run_toy(killed, ToyTask(accumulation_steps), **options)
    assert replace(resumed, seconds=0.0) == replace(summary, seconds=0.0)
    assert_same(final_state(killed), final_state(whole))
    assert logged(killed, "epoch_loss") == logged(whole, "epoch_loss")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_toy(folder, ToyTask())
    return folder


@pytest.mark.parametrize(
    ("step", "number"),
    [(1, signal.SIGTERM), (7, signal.SIGINT), (STEPS_PER_EPOCH, signal.SIGTERM), (TOTAL, signal.SIGINT)],
)
def test_signal_saves_stops_and_resumes(
    tmp_path: Path, whole: Path, step: int, number: signal.Signals
) -> None:
    folder = tmp_path / "stopped"
    stopped = run_toy(folder, ToyTask(signal_after=(step, number)))
    assert (stopped.steps, stopped.interrupted) == (step, number)
    assert step > 1 or stopped.last_loss == stopped.first_loss
    assert load_checkpoint(folder / "checkpoints" / f"step_{step:09d}.pt")["progress"]["step"] == step

    task = ToyTask()
    resumed = run_toy(folder, task)
    assert (resumed.steps, resumed.interrupted) == (TOTAL, None)
    assert task.evaluated[-1] == EPOCHS
    assert_same(final_state(folder), final_state(whole))
    assert logged(folder, "epoch_loss") == logged(whole, "epoch_loss")


class Drawing:
    """Batches that draw a number as they are opened, as a DataLoader does."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        torch.rand(())
        return iter(self.batches)


def test_opening_the_batches_disturbs_no_step(tmp_path: Path, whole: Path) -> None:
    class DrawingTask(ToyTask):
        def batches(self, start_step: int, total_steps: int) -> Iterable[Any]:
            return Drawing(super().batches(start_step, total_steps))

    run_toy(tmp_path, DrawingTask(signal_after=(8, signal.SIGTERM)))
    run_toy(tmp_path, DrawingTask())
    assert_same(final_state(tmp_path), final_state(whole))


def test_damaged_newest_checkpoint_costs_only_time(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "damaged"
    run_toy(folder, ToyTask(signal_after=(8, signal.SIGTERM)))
    newest = Checkpoints(folder / "checkpoints").files()[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    run_toy(folder, ToyTask())
    assert_same(final_state(folder), final_state(whole))
    steps = [record["step"] for record in RunFolder(folder).records() if "loss" in record]
    assert steps == sorted(set(steps))


def test_a_best_epoch_whose_run_was_killed_before_it_was_kept_as_such_is_kept(tmp_path: Path) -> None:
    class Improving(ToyTask):
        def evaluate(self, epoch: int) -> dict[str, float]:
            return {"score": float(epoch)}

    run_toy(tmp_path, Improving(), best=("score", "max"))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    former, last = checkpoints.files()
    assert checkpoints.best.samefile(last)
    checkpoints.best.unlink()
    checkpoints.best.hardlink_to(former)
    run_toy(tmp_path, Improving(), best=("score", "max"))
    assert checkpoints.best.samefile(last)


def test_other_images_than_those_of_the_checkpoints_are_refused(tmp_path: Path) -> None:
    class Listed(ToyTask):
        def __init__(self, images: int, **options: Any) -> None:
            super().__init__(**options)
            self.images = images

        def data(self) -> dict[str, int | str]:
            return {"images": self.images}

    run_toy(tmp_path, Listed(60, signal_after=(7, signal.SIGTERM)))
    with pytest.raises(UserError, match=r"images 60 there, 36 here.*another --out"):
        run_toy(tmp_path, Listed(36))
    assert run_toy(tmp_path, Listed(60)).steps == TOTAL


def test_complete_run_returns_at_once(tmp_path: Path) -> None:
    first = run_toy(tmp_path, ToyTask())
    task = ToyTask()
    log = (tmp_path / "log.jsonl").read_bytes()
    assert run_toy(tmp_path, task) == first
    assert task.evaluated == []
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_a_trainer_is_whole_before_it_resumes(tmp_path: Path) -> None:
    run_toy(tmp_path / "whole", ToyTask(signal_after=(1, signal.SIGTERM)))
    task = ToyTask()
    run = RunFolder(tmp_path / "step")
    run.acquire(RunSettings({"task": "toy"}))
    Trainer(task, toy_config(), torch.device("cpu"), run).step()
    assert_same(task.model.state_dict(), final_state(tmp_path / "whole")["model"])


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    """Without the layers that see the whole batch or draw at random."""

    def linear_task(accumulation_steps: int) -> ToyTask:
        task = ToyTask(accumulation_steps)
        task.model[1] = torch.nn.Identity()
        task.model[4] = torch.nn.Identity()
        return task

    run_toy(tmp_path / "one", linear_task(1))
    run_toy(tmp_path / "four", linear_task(4))
    one, four = (final_state(tmp_path / name)["model"] for name in ("one", "four"))
    torch.testing.assert_close(one, four, rtol=1e-4, atol=1e-6)


def test_every_group_follows_the_schedule_at_its_own_scale(tmp_path: Path) -> None:
    run_toy(tmp_path, ToyTask())
    config = OptimConfig(base_lr=0.3, warmup_epochs=1.0)
    last = learning_rate(
        TOTAL - 1, config=config, batch_size=BATCH, steps_per_epoch=STEPS_PER_EPOCH, epochs=EPOCHS
    )
    groups = final_state(tmp_path)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [0.5 * last, last]
    assert logged(tmp_path, "lr")[-1] == last


def test_gradients_are_clipped_after_their_norm_is_logged(tmp_path: Path) -> None:
    """AdamW forgets the gradients' scale, but its first moment does not."""
    run_toy(tmp_path / "free", ToyTask(signal_after=(1, signal.SIGTERM)))
    run_toy(tmp_path / "clipped", ToyTask(signal_after=(1, signal.SIGTERM)), clip_grad=0.01)
    norms = []
    for name in ("free", "clipped"):
        moments = [each["exp_avg"] for each in final_state(tmp_path / name)["optimizer"]["state"].values()]
        norms.append(10 * torch.nn.utils.get_total_norm(moments).item())  # 1 - beta is 0.1
    [logged_norm] = logged(tmp_path / "clipped", "grad_norm")
    assert logged_norm == pytest.approx(norms[0], rel=1e-4)
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("poison_gradient", "culprit"), [(False, "loss"), (True, "grad_norm")])
def test_what_is_not_finite_stops_the_run_unsaved(
    tmp_path: Path, poison_gradient: bool, culprit: str
) -> None:
    task = ToyTask(accumulation_steps=2, poison=8, poison_gradient=poison_gradient)
    with pytest.raises(
        UserError, match=rf"{culprit}.* of step 8 .*learning rate 0\.00\d+.*step8_0\.png"
    ) as caught:
        run_toy(tmp_path, task, log_every=100, save_minutes=0.0)
    assert "step7_" not in str(caught.value)
    [path] = Checkpoints(tmp_path / "checkpoints").files()
    assert path.name == "step_000000005.pt"
    assert all(weight.isfinite().all() for weight in load_checkpoint(path)["model"].values())
    assert logged(tmp_path, "files") == [[f"step8_{i}.png" for i in range(4)] * 2]


def test_checkpoint_that_is_due_reads_the_losses_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step 8"):
        run_toy(tmp_path, ToyTask(poison=8), log_every=100, save_minutes=EVERY_STEP)
    assert [path.name for path in Checkpoints(tmp_path / "checkpoints").files()][-1] == "step_000000007.pt"


def test_fp16_skips_a_step_whose_gradients_overflow(tmp_path: Path) -> None:
    task = ToyTask(poison=8, poison_gradient=True)
    summary = run_toy(tmp_path, task, precision="fp16", log_every=1)
    assert summary.steps == TOTAL
    assert logged(tmp_path, "grad_norm")[7] is None
    assert all(weight.isfinite().all() for weight in final_state(tmp_path)["model"].values())


def test_fp16_that_overflows_at_any_scale_is_an_error(tmp_path: Path) -> None:
    class Overflowing(ToyTask):
        def step(self, batch: Any) -> Any:
            self.poison, self.poison_gradient = batch[0], True
            return super().step(batch)

    task = Overflowing()
    task.steps_per_epoch = 50
    with pytest.raises(UserError, match="bf16 or float32"):
        run_toy(tmp_path, task, precision="fp16")


def test_best_is_the_best_of_the_epochs(tmp_path: Path) -> None:
    run_toy(tmp_path / "score", ToyTask(), best=("score", "max"))  # 1, 0, 1: the first of equals stays
    assert load_checkpoint(tmp_path / "score/checkpoints/best.pt")["progress"]["finished_epochs"] == 1
    run_toy(tmp_path / "loss", ToyTask(), save_every=100)  # the best epoch is saved whatever its number
    losses = logged(tmp_path / "loss", "epoch_loss")
    best = load_checkpoint(tmp_path / "loss/checkpoints/best.pt")["progress"]
    assert best["best"] == min(losses)
    assert best["finished_epochs"] == losses.index(min(losses)) + 1


def test_patience_counts_every_epoch_and_not_only_those_that_are_saved(tmp_path: Path) -> None:
    run_toy(tmp_path, ToyTask(), best=("score", "max"), patience=1, save_every=100)  # 1, 0: no better
    assert logged(tmp_path, "score") == [1.0, 0.0]


def test_without_a_metric_to_choose_by_no_checkpoint_is_the_best(tmp_path: Path) -> None:
    run_toy(tmp_path, ToyTask(), best=None)
    assert not Checkpoints(tmp_path / "checkpoints").best.exists()


def test_run_folder_tells_the_run(tmp_path: Path) -> None:
    summary = run_toy(tmp_path, ToyTask(), save_every=2)
    losses, epoch_losses = logged(tmp_path, "loss"), logged(tmp_path, "epoch_loss")
    assert logged(tmp_path, "step")[:4] == [2, 4, 5, 5]
    assert epoch_losses[0] == pytest.approx((2 * losses[0] + 2 * losses[1] + losses[2]) / 5)
    assert logged(tmp_path, "score") == [1.0, 0.0, 1.0]
    assert all(value > 0 for value in logged(tmp_path, "images_per_s") + logged(tmp_path, "error"))
    assert summary.last_loss == epoch_losses[-1] < summary.first_loss
    names = [path.name for path in Checkpoints(tmp_path / "checkpoints").files()]
    assert names == ["step_000000010.pt", "step_000000015.pt"]
    assert (tmp_path / "curves.png").exists()


def test_warmup_beyond_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"warmup_epochs is 4 in a run of 3 epochs"):
        run_toy(tmp_path, ToyTask(), warmup_epochs=4.0)


def test_compiling_keeps_the_names_and_the_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled.append((self, how)))
    task = ToyTask(signal_after=(1, signal.SIGTERM))
    run_toy(tmp_path, task, compile=True)
    assert compiled == [(task.model, {"dynamic": False})]


def test_a_run_goes_on_with_other_settings(tmp_path: Path) -> None:
    """More epochs and another rate: from there on as one that had them in its checkpoint's place."""
    run_toy(tmp_path, ToyTask(), weight_decay=0.1)
    task = ToyTask()
    assert run_toy(tmp_path, task, epochs=EPOCHS + 2, base_lr=0.1, weight_decay=0.2).steps == TOTAL + 10
    assert task.evaluated == [4, 5]
    groups = final_state(tmp_path)["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.2]
    config = OptimConfig(base_lr=0.1, warmup_epochs=1.0)
    options: dict[str, Any] = {"config": config, "batch_size": BATCH, "steps_per_epoch": STEPS_PER_EPOCH}
    rates = [learning_rate(step - 1, epochs=EPOCHS + 2, **options) for step in (17, 19, 20, 22, 24, 25)]
    assert [record["lr"] for record in RunFolder(tmp_path).records() if "lr" in record][-6:] == rates


def test_fewer_epochs_than_are_done_are_done(tmp_path: Path) -> None:
    run_toy(tmp_path, ToyTask())
    assert run_toy(tmp_path, ToyTask(), epochs=1, warmup_epochs=0.0).interrupted is None


def test_a_checkpoint_of_another_network_is_told(tmp_path: Path) -> None:
    run_toy(tmp_path, ToyTask(signal_after=(7, signal.SIGTERM)))
    task = ToyTask()
    task.model.append(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"checkpoints: the newest .* does not fit .*another --out"):
        run_toy(tmp_path, task)
