"""The commands that use an encoder: what is wrong is said in one line, before anything slow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcmae import create_model
from fcmae.finetune.prepare import check
from fcmae.finetune.resolve import resolve
from fcmae.launch.cli import finetune, pretrain
from fcmae.launch.cli.main import main
from fcmae.models.card import Card
from fcmae.models.storage import save_weights

TINY = ["--image-size=32", "--batch-size=4", "--images.workers=0", "--device=cpu"]


def make_classes(root: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: two classes in data/, and weights of a classifier of other ones in weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    make_classes(Path("data"), {"cat": 6, "dog": 6})
    model = create_model("convnextv2_atto", num_classes=2, depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    options = {"in_chans": 3, "stem_stride": 4, "depths": (1, 1, 1, 1), "dims": (4, 4, 4, 4)}
    known: dict[str, Any] = {"image_size": (32, 32), "crop_pct": 1.0, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    card = Card(model="convnextv2_atto", options=options, class_names=("cat", "cow"), **known)
    save_weights(Path("weights.safetensors"), model.state_dict(), card)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command which cannot work writes."""
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("fcmae: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("words", [["--data=digits"], ["--data", "digits"], ["--data=cats", "--data=digits"]])
def test_naming_the_default_data_changes_nothing(words: list[str]) -> None:
    assert pretrain.read(words) == pretrain.read([])
    assert finetune.read(words) == finetune.read([])


def test_a_default_recipe_leaves_the_network_to_model_and_init() -> None:
    def read(*words: str) -> tuple[object, ...]:
        config = resolve(finetune.read(list(words)))
        network = config.network
        return config.model, network.stem_stride, network.depths, network.dims, config.layer_decay

    theirs = (4, (1, 1, 1, 1), (4, 4, 4, 4))
    assert read() == ("convnextv2_atto", 1, (1, 1, 2, 1), (24, 48, 96, 192), 1.0)
    assert read("--model=timm:resnet18") == ("timm:resnet18", 4, None, None, 1.0)
    assert read("--model", "convnextv2_nano") == ("convnextv2_nano", 4, None, None, 1.0)
    assert read("--init=weights.safetensors") == ("convnextv2_atto", *theirs, 0.9)
    assert read("--init=weights.safetensors", "--data=data") == ("convnextv2_atto", *theirs, 0.75)
    assert read("--data=data", "--layer-decay=0.5") == ("convnextv2_atto", 4, None, None, 0.5)
    assert read("--config=digits", "--model=convnextv2_nano")[1:] == (1, (1, 1, 2, 1), (24, 48, 96, 192), 0.9)


def test_a_default_recipe_suits_few_epochs_and_many_channels(caplog: pytest.LogCaptureFixture) -> None:
    def policy(*words: str) -> str | None:
        config = resolve(finetune.read(["--data=data", "--epochs=2", *words]))
        check(config)
        return config.augment.auto_augment

    assert policy() == policy("--network.in-chans=1") == "rand-m9-mstd0.5-inc1"
    assert not caplog.messages
    assert policy("--network.in-chans=12") is None
    assert caplog.messages == [
        "images of 12 channels are trained on without RandAugment, which is for 1 or 3"
    ]


def test_folders_of_labels_that_cannot_work(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(data: str) -> str:
        return refusal(capsys, "finetune", "--data", data, *TINY)

    make_classes(Path("one"), {"cat": 3})
    assert "one class only (cat)" in refused("one")
    assert "one class only (cat)" in refusal(capsys, "finetune", "--data=one", "--epochs=2")
    make_classes(Path("lonely"), {"cat": 1, "dog": 1})
    assert "has one image of each class" in refused("lonely")
    make_classes(Path("uneven/train"), {"cat": 3, "dog": 3})
    make_classes(Path("uneven/val"), {"cat": 3, "cow": 3})
    assert "no image of 1 of the 2 classes" in refused("uneven")
    make_classes(Path("torn"), {"cat": 3, "dog": 3})
    for path in Path("torn/dog").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert "none of the 3 images of this class can be read" in refused("torn")
    assert "does not exist" in refused("nowhere")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init=nowhere"], "nowhere: no such weights"),
        (["--init=data"], "holds neither model.safetensors nor encoder.safetensors"),
        (["--init=weights.safetensors", "--model=convnextv2_tiny"], "holds convnextv2_atto, not"),
        (["--init=weights.safetensors", "--network.depths=[2,1,1,1]"], "in another network"),
        (["--init=data/cat/0.png"], "0.png"),
        (["--model=convnextv2_ato"], "did you mean convnextv2_atto"),
        (["--model=timm:resnet51"], "timm has no model resnet51; did you mean resnet"),
        (["--image-size=100"], "multiple of the network's stride 32"),
        (["--batch-size=500"], "does not fit the"),
        (["--optim.accumulation_steps=3"], "batch_size 4 cannot be cut"),
        (["--augment.mixup=0.8", "--batch-size=5"], "must be even"),
        (["--seed=-1"], "at least 0"),
        (["--network.drop-path-rate=1.5"], "below 1"),
        (["--network.dims=[8,8,0,8]", "--network.depths=[1,1,1,1]"], "each of network.dims is 0"),
        (["--augment.erase=7"], "augment.erase is 7: it goes from 0 to 1"),
        (["--augment.label-smoothing=3"], "from 0 to 1"),
        (["--augment.mixup=-1"], "augment.mixup is -1: 0 turns it off"),
        (["--augment.color-jitter=-0.1"], "0 turns it off"),
        (["--augment.color-jitter=1", "--network.in-chans=4", "--augment.auto-augment=null"],
         "give --augment.color-jitter 0"),
        (["--network.in-chans=12", "--augment.auto-augment=v0"], "give --augment.auto-augment null"),
        (["--augment.auto-augment=randm9"], "try rand-m9-mstd0.5-inc1"),
        (["--augment.auto-augment=rand-x9"], "timm does not understand it"),
        (["--best=ema_top1", "--ema-decay=null"], "no moving average is kept"),
        (["--best=accuracy"], "choose loss, val_loss, top1"),
        (["--network.freeze=5"], "choose 0 to 4"),
        (["--val-fraction=1.5"], "a fraction between 0 and 1"),
        (["--mixup=0.8"], "did you mean '--augment.mixup'"),
        (["--config=convnext_v2"], "no built-in recipe of that name"),
        (["--device=cuda:99"], "cuda"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refusal(capsys, "finetune", "--data=data", *TINY, *options)


def test_an_unknown_model_of_timm_is_refused_before_anything_is_claimed_or_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["finetune", "--data=data", *TINY, "--model=timm:resnet51"]) == 2
    assert not capsys.readouterr().out
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--weights=nowhere"], "no such weights"),
        (["evaluate", "--weights=weights.safetensors"], "say with --data what to measure on"),
        (["evaluate", "--weights=weights.safetensors", "--data=nowhere"], "does not exist"),
        (["evaluate", "--weights=weights.safetensors", "--data=data"],
         "weights.safetensors does not know 1 of the 2 classes of data (dog); it knows 2 (cat, cow)"),
        (["evaluate", "--weights=weights.safetensors", "--data=digits", "--out=no/x"], "does not exist"),
        (["predict", "--weights=weights.safetensors", "--images=nowhere"], "does not exist"),
        (["predict", "--weights=weights.safetensors", "--images=data", "--out=no/x"], "no does not exist"),
        (["embed", "--weights=weights.safetensors", "--images=weights.safetensors"], "is a file"),
        (["embed", "--weights=weights.safetensors", "--images=data", "--batch-size=0"], "at least 1"),
        (["predict", "--weights=weights.safetensors", "--images=data", "--topk=0"], "--topk is 0"),
        (["predict", "--weights=weights.safetensors", "--images=data", "--workers=-1"], "--workers is -1"),
        (["evaluate", "--weights=weights.safetensors", "--data=digits", "--batch-size=0"], "at least 1"),
        (["evaluate", "--weights=weights.safetensors", "--data=digits", "--image-size=0"], "at least 1"),
        (["probe", "--weights=weights.safetensors", "--neighbors=0"], "--neighbors is 0"),
        (["probe", "--weights=weights.safetensors", "--batch-size=0"], "at least 1"),
        (["probe", "--weights=weights.safetensors", "--val-fraction=1"], "a fraction between 0 and 1"),
        (["embed", "--weights=weights.safetensors", "--images=data", "--out=f.csv"], ".npz or .parquet"),
        (["export", "--weights=weights.safetensors", "--out=x", "--format=caffe"], "caffe"),
        (["export", "--weights=weights.safetensors", "--out=x.pt", "--format=torch"], "end in .pt2"),
        (["export", "--weights=weights.safetensors", "--out=data"], "exists already"),
        (["probe", "--weights=weights.safetensors", "--neighbours=3"], "did you mean '--neighbors'"),
        (["predict", "--images=data"], "weights"),
        (["embed", "--weights=weights.safetensors", "--images=data", "--precision=bf8"], "bf8"),
    ],
)  # fmt: skip
def test_uses_that_cannot_work(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in refusal(capsys, *words)


def test_wrong_paths_are_reported_without_importing_torch(folder: Path) -> None:
    commands = [
        ["finetune", "--data=nowhere"],
        ["finetune", "--init=nowhere"],
        ["evaluate", "--weights=weights.safetensors", "--data=data"],
        ["predict", "--weights=weights.safetensors", "--images=nowhere"],
        ["export", "--weights=weights.safetensors", "--format=torch", "--out=x.pt"],
    ]
    code = (
        "import sys, json\nfrom fcmae.launch.cli.main import main\n"
        "assert all(main(words) == 2 for words in json.loads(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(commands)], check=True, capture_output=True)


def test_only_pictures_that_are_drawn_are_pointed_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_classes(Path("known"), {"cat": 2, "cow": 2})
    words = ["--weights=weights.safetensors", "--data=known", "--workers=0", "--device=cpu"]
    assert main(["evaluate", *words, "--out=report"]) == 0
    assert "look at report/confusion.png and" in capsys.readouterr().out
    monkeypatch.setattr("fcmae.finetune.measure.CONFUSION_CLASSES", 1)
    assert main(["evaluate", *words, "--out=report"]) == 0
    shown = capsys.readouterr().out
    assert "look at report/worst_classes.png; so many classes get no confusion matrix" in shown
    assert not Path("report/confusion.png").exists()
    monkeypatch.setattr(
        "fcmae.finetune.probe.probe", lambda **_: {"knn": 1, "linear": 1, "train_images": 1, "val_images": 1}
    )
    assert main(["probe", *words, "--collapse=collapse.png"]) == 0
    shown = capsys.readouterr().out
    assert "no collapse is drawn" in shown
    assert "look at" not in shown


def test_from_folder_to_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Fine-tune by the newcomer's recipe, evaluate, predict, embed: the commands say where to look."""
    words = ["--init=weights.safetensors", "--epochs=1", "--out=run"]
    assert main(["finetune", "--data=data", *TINY, *words]) == 0
    shown = capsys.readouterr().out
    assert " on 10 + 2 images of data, 32 x 32, cpu; run folder: run\n" in shown
    assert "run/model.safetensors" in shown
    assert "unreadable" not in shown
    assert main(["evaluate", "--weights=run", "--data=data", "--out=report", "--workers=0"]) == 0
    assert "\n2 images, 0 unreadable" in capsys.readouterr().out
    assert main(["predict", "--weights=run", "--images=data", "--topk=1", "--workers=0"]) == 0
    assert len(Path("results.csv").read_text().splitlines()) == 13
    assert main(["embed", "--weights=run", "--images=data", "--workers=0"]) == 0
    assert np.load("results.npz")["features"].shape == (12, 4)
    Path("run/broken_val_images.txt").write_text("cat/0.png\tcut short\n")
    capsys.readouterr()
    assert main(["finetune", "--data=data", *TINY, *words]) == 0  # complete: returns at once
    assert "\n  unreadable  1 of 2 images, listed in run/broken_val_images.txt\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["finetune", "evaluate", "probe", "predict", "embed", "export"])
def test_help_spells_options_with_hyphens(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "--image-size" in shown or "--batch-size" in shown
    assert "_size " not in shown.replace("{", " ")
