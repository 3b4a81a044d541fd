"""What a trained network is used for: evaluate, predict, embed, probe, from the weights of a run."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_hook

from fcmae import create_model
from fcmae.core.errors import UserError
from fcmae.data.sources.digits import load_digits_images
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import AugmentConfig, FinetuneConfig
from fcmae.finetune.evaluate import evaluate
from fcmae.finetune.inputs import check_labelled, check_weights, is_own_data
from fcmae.finetune.network import open_network, save_network
from fcmae.finetune.predict import embed, predict
from fcmae.finetune.prepare import prepare
from fcmae.finetune.probe import probe
from fcmae.finetune.resolve import resolve
from fcmae.models.weights import load_weights
from tests.finetune.small_run import NETWORK, run_small, small_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on some of the digits, good enough to tell them apart."""
    out = tmp_path_factory.mktemp("trained") / "run"
    plain = AugmentConfig(auto_augment=None, erase=0.0)
    optim = replace(small_config(out).optim, lr=6e-3)
    run_small(out, train_fraction=0.3, epochs=5, augment=plain, optim=optim, layer_decay=1.0, ema_decay=None)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 0 to 29 as files in class folders, and one broken file."""
    root = tmp_path_factory.mktemp("data") / "digits"
    images, labels = load_digits_images(16)
    for i in range(30):
        path = root / str(int(labels[i])) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i, 0].numpy()).save(path)
    (root / "3" / "torn.png").write_bytes((root / "3" / "3.png").read_bytes()[:60])
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def logged(run: Path) -> dict[str, float]:
    records = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return max((each for each in records if "epoch_loss" in each), key=lambda each: each["top1"])


def test_evaluate_repeats_what_training_measured(run: Path, tmp_path: Path) -> None:
    metrics = evaluate(run, "digits", out=tmp_path / "report", device="cpu", workers=0, batch_size=50)
    for name in ("top1", "top5", "mean_class", "val_loss"):
        assert metrics[name] == pytest.approx(logged(run)[name], rel=1e-4)
    assert (metrics["images"], metrics["unreadable"]) == (359, 0)
    assert json.loads((tmp_path / "report" / "metrics.json").read_text()) == metrics
    with (tmp_path / "report" / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    counts = np.array([row[1:] for row in rows], int)
    assert header[1:] == [row[0] for row in rows] == [str(i) for i in range(10)]
    assert counts.sum() == 359
    assert 100 * counts.trace() / 359 == pytest.approx(metrics["top1"])
    for name in ("confusion.png", "worst_classes.png"):
        assert Image.open(tmp_path / "report" / name).size[0] > 200


@pytest.mark.parametrize("model", ["convnextv2_atto", "timm:resnet10t"])
def test_a_checkpoint_in_a_run_is_measured_as_its_run_is(model: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": model, "image_size": 32, "crop_pct": 0.8}
    if model.startswith("timm:"):
        options["network"] = replace(NETWORK, stem_stride=None, depths=None, dims=None)
    images = replace(small_config(tmp_path).images, mean=(0.3,), std=(0.2,))
    run_small(tmp_path / "run", epochs=1, best="ema_top1", images=images, **options)
    run, checkpoint = (
        open_network(path, CPU) for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "best.pt")
    )
    assert checkpoint.card == run.card
    assert (run.num_classes, checkpoint.num_classes) == (10, 10)
    assert (run.card.image_size, run.card.crop_pct) == ((32, 32), 0.8)
    assert (run.card.mean, run.card.std, run.card.averaged) == ((0.3,), (0.2,), True)
    left, right = run.model.state_dict(), checkpoint.model.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has not yet written its weights"):
        check_weights(tmp_path / "run" / "checkpoints" / "best.pt", "cpu")


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    texts = {"format": '"fcmae.weights.2"', "model": '"timm:resnet10t"', "class_names": '["a"]'}
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors", texts)
    with pytest.raises(UserError, match=r"fcmae\.weights\.2, from a newer version"):
        open_network(tmp_path, CPU)


def test_evaluate_never_measures_what_a_run_was_trained_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_small(out, data=str(folder), seed=3, epochs=1, batch_size=4, train_fraction=1.0, ema_decay=None)
    expected = 10  # one of each class
    for data in (None, str(folder)):
        metrics = evaluate(out, data, device="cpu", workers=0)
        assert metrics["images"] + metrics["unreadable"] == expected
        assert metrics["top1"] == pytest.approx(logged(out)["top1"])


def test_evaluate_knows_a_run_by_a_file_in_it_and_its_data_by_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "there"):
        shutil.copytree(folder, tmp_path / place / "numbers")
    monkeypatch.chdir(tmp_path / "here")
    run_small(Path("run"), data="numbers", epochs=1, batch_size=4, train_fraction=1.0, ema_decay=None)
    monkeypatch.chdir(tmp_path / "there")
    run, trained_on = tmp_path / "here" / "run", tmp_path / "here" / "numbers"

    def count(weights: Path, data: str | None) -> int:
        metrics = evaluate(weights, data, device="cpu", workers=0)
        return int(metrics["images"] + metrics["unreadable"])

    for data in (None, str(trained_on), "../here/numbers"):
        assert count(run / "model.safetensors", data) == 10  # one of each class
    assert count(run, "numbers") == 31  # another folder of the same name
    shutil.copy(run / "model.safetensors", "alone.safetensors")
    assert count(Path("alone.safetensors"), str(trained_on)) == 31
    with pytest.raises(UserError, match="belongs to no fine-tuning"):
        check_labelled(None, Path("alone.safetensors"))


def test_a_folder_of_two_halves_is_known_by_its_name_and_by_the_half(folder: Path, tmp_path: Path) -> None:
    for half in ("train", "val"):
        shutil.copytree(folder, tmp_path / "data" / half)
    _, run = prepare(small_config(tmp_path / "run", data=str(tmp_path / "data"), batch_size=4))
    asked = {name: is_own_data(str(tmp_path / name), run) for name in ("data", "data/val", "data/train", ".")}
    assert asked == {"data": True, "data/val": True, "data/train": False, ".": False}


def test_own_data_by_name_is_looked_for_where_it_is_said_to_lie(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = []

    def open_data(config: FinetuneConfig, run: RunFolder) -> NoReturn:
        roots.append(config.data_root)
        raise UserError("far enough")

    monkeypatch.setattr("fcmae.finetune.evaluate.open_data", open_data)
    for data_root in ("elsewhere", None):
        with pytest.raises(UserError, match="far enough"):
            evaluate(run, "digits", data_root=data_root, device="cpu")
    assert roots == ["elsewhere", "data"]


def test_evaluate_knows_classes_by_name(run: Path, folder: Path) -> None:
    metrics = evaluate(run, str(folder), device="cpu", workers=0)
    assert (metrics["images"], metrics["unreadable"]) == (30, 1)
    for path in sorted(folder.iterdir())[:5]:
        path.rename(folder / f"hidden.{path.name}")  # a hidden class is a missing class
    try:
        with pytest.raises(UserError, match=r"does not know 5 of the .* classes of .* \(hidden\.0"):
            evaluate(run, str(folder), device="cpu", workers=0)
    finally:
        for path in folder.glob("hidden.*"):
            path.rename(folder / path.name.removeprefix("hidden."))


def test_predict_writes_the_likeliest_classes_and_lists_broken_files(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.csv"
    assert predict(run, folder, out, topk=3, batch_size=7, workers=0, device="cpu") == (30, 1)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file"] for row in rows) == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*.png") if path.name != "torn.png"
    )
    assert (tmp_path / "results.csv.broken.txt").read_text().startswith("3/torn.png\t")
    network = open_network(run, CPU)
    for row in rows[:5]:
        pixels = torch.from_numpy(np.array(Image.open(folder / row["file"])))[None, None] / 255
        with torch.no_grad():
            shares = network.model((pixels - 0.5) / 0.25).softmax(1)[0]
        assert int(row["class_1"]) == int(shares.argmax())
        assert float(row["probability_1"]) == pytest.approx(float(shares.max()), abs=1e-3)
        assert float(row["probability_1"]) >= float(row["probability_2"]) >= float(row["probability_3"])
    right = sum(row["class_1"] == row["file"].split("/")[0] for row in rows)
    assert right > 15  # of 30


def test_12_bit_images_are_read_as_in_training(run: Path, folder: Path, tmp_path: Path) -> None:
    """Pixels v of 255 and v of 4095 are the same where the weights say (0, 4095)."""
    deep, weights = tmp_path / "deep", tmp_path / "deep.safetensors"
    for path in folder.rglob("*.png"):
        if path.name != "torn.png":
            pixels = np.round(np.array(Image.open(path)) * (4095 / 255)).astype(np.uint16)
            (deep / path.parent.name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(deep / path.parent.name / path.name)
    config = small_config(tmp_path, images=replace(small_config(tmp_path).images, value_range=(0, 4095)))
    save_network(open_network(run, CPU).model.state_dict(), config, [str(i) for i in range(10)], {}, weights)
    assert load_weights(weights).card.value_range == (0, 4095)
    assert resolve(small_config(tmp_path, init=str(weights))).images.value_range == (0, 4095)

    def use(weights: Path, images: Path) -> list[str | bytes | float]:
        options: dict[str, Any] = {"workers": 0, "device": "cpu"}
        predict(weights, images, tmp_path / "results.csv", **options)
        embed(weights, images, tmp_path / "features.npz", **options)
        return [
            (tmp_path / "results.csv").read_text(),
            (tmp_path / "features.npz").read_bytes(),
            evaluate(weights, str(images), **options)["val_loss"],
            probe(weights, str(images), neighbors=3, **options)["linear"],
        ]

    assert use(weights, deep) == use(run, folder)


def test_embed_gives_what_the_head_is_given(run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    assert embed(run, folder, out, batch_size=7, workers=0, device="cpu") == (30, 1)
    with np.load(out, allow_pickle=False) as file:
        features, files = file["features"], file["files"].tolist()
    assert (features.dtype, features.shape) == (np.float32, (30, 24))
    head = open_network(run, CPU).model.head
    with torch.no_grad():
        logits = head(torch.from_numpy(features))  # type: ignore[operator]
    predict(run, folder, tmp_path / "results.csv", workers=0, device="cpu")
    with (tmp_path / "results.csv").open(newline="") as stream:
        assert {row["file"]: int(row["class_1"]) for row in csv.DictReader(stream)} == dict(
            zip(files, logits.argmax(1).tolist(), strict=True)
        )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_use_computes_in_the_precision_asked_for(
    run: Path, folder: Path, tmp_path: Path, precision: str
) -> None:
    options: dict[str, Any] = {"workers": 0, "device": "cpu", "precision": precision}
    uses = {
        "evaluate": lambda: evaluate(run, str(folder), **options),
        "probe": lambda: probe(run, str(folder), neighbors=3, **options),
        "predict": lambda: predict(run, folder, tmp_path / "results.csv", **options),
        "embed": lambda: embed(run, folder, tmp_path / "features.npz", **options),
    }
    for name, use in uses.items():
        seen: set[torch.dtype] = set()
        hook = register_module_forward_hook(lambda _, __, out, seen=seen: seen.add(out.dtype))
        try:
            use()
        finally:
            hook.remove()
        assert (torch.bfloat16 in seen) == (precision == "bf16"), name


def test_names_that_are_not_utf_8_are_written(run: Path, folder: Path, tmp_path: Path) -> None:
    name = b"caf\xe9.npy"
    (tmp_path / "images").mkdir()
    try:
        np.save(tmp_path / "images" / os.fsdecode(name), np.array(Image.open(folder / "1" / "1.png")))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    options: dict[str, Any] = {"workers": 0, "device": "cpu"}
    assert predict(run, tmp_path / "images", tmp_path / "results.csv", **options) == (1, 0)
    assert name in (tmp_path / "results.csv").read_bytes()
    embed(run, tmp_path / "images", tmp_path / "features.npz", **options)
    with np.load(tmp_path / "features.npz", allow_pickle=False) as file:
        assert file["files"].tolist() == [os.fsdecode(name)]
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    embed(run, tmp_path / "images", tmp_path / "features.parquet", **options)
    assert parquet.read_table(tmp_path / "features.parquet")["files"].to_pylist() == ["caf?.npy"]


def test_parquet_holds_what_npz_holds(run: Path, folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    for suffix in ("npz", "parquet"):
        embed(run, folder, tmp_path / f"features.{suffix}", workers=0, device="cpu")
    table = parquet.read_table(tmp_path / "features.parquet")
    with np.load(tmp_path / "features.npz", allow_pickle=False) as file:
        assert table["files"].to_pylist() == file["files"].tolist()
        assert np.array_equal(np.array(table["features"].to_pylist(), np.float32), file["features"])


def test_probe_tells_trained_features_from_fresh_ones(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "collapse.png"
    trained = probe(run, "digits", collapse=picture, limit=400, device="cpu", workers=0)
    assert trained["knn"] > 70
    assert trained["linear"] > 70
    assert 380 <= trained["train_images"] <= 420
    assert list(trained["collapse"]) == ["stages.0.0", "stages.1.0", "stages.2.0", "stages.3.0"]
    assert Image.open(picture).size[0] > 200


def test_weights_that_do_not_fit_are_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"20 x 20 is not a multiple of .* stride 8: the nearest is 16 x 16$"):
        evaluate(run, "digits", image_size=20, device="cpu")
    with pytest.raises(UserError, match=r"holds neither model\.safetensors"):
        evaluate(tmp_path, "digits", device="cpu")
    encoder = tmp_path / "official.pth"
    options = {"in_chans": NETWORK.in_chans or 1, "num_classes": 7}
    torch.save({"model": create_model("convnextv2_atto", **options).state_dict()}, encoder)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"has 10 classes and the head of .* has 7"):
        evaluate(encoder, str(folder), device="cpu", workers=0)
    torch.save({"model": create_model("convnextv2_atto", num_classes=0).state_dict()}, encoder)
    with pytest.raises(UserError, match="without a head: fine-tune it first"):
        predict(encoder, folder, tmp_path / "out.csv", device="cpu", workers=0)
