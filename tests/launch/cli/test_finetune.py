"""`fcmae finetune`: default recipes, and what is wrong said in one line, before anything slow."""

import shutil
from pathlib import Path

import pytest

from fcmae.data.index import describe_lists
from fcmae.finetune import settings
from fcmae.finetune.prepare import check, list_data, prepare
from fcmae.finetune.resolve import resolve
from fcmae.launch.cli.main import main
from tests.launch.toys import make_classes, refusal

TINY = ["--image-size=32", "--batch-size=4", "--images.workers=0", "--device=cpu"]
pytestmark = pytest.mark.usefixtures("trained")


def test_a_default_recipe_leaves_the_network_to_model_and_init() -> None:
    def read(*argv: str) -> tuple[object, ...]:
        config = resolve(settings.read(list(argv)))
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
    def policy(*argv: str) -> str | None:
        config = resolve(settings.read(["--data=data", "--epochs=2", *argv]))
        check(config)
        return config.augment.auto_augment

    assert policy() == policy("--network.in-chans=1") == "rand-m9-mstd0.5-inc1"
    assert not caplog.messages
    assert policy("--network.in-chans=12") is None
    assert caplog.messages == [
        "images of 12 channels are trained on without RandAugment, which is for 1 or 3"
    ]


def test_a_queued_run_sees_the_images_of_its_submission(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--data=data",
        *TINY,
        "--out=run",
        "--augment.mix-prob=0",
        "--augment.mixup=0",
        "--augment.cutmix=0",
    ]
    config, run = prepare(settings.read(argv))
    lists = list_data(config, run)
    digest = str(describe_lists(lists)["digest"])
    shutil.copy("data/cat/0.png", "data/cat/new.png")
    assert sum(map(len, list_data(config, run))) == 13
    _, run = prepare(settings.read(argv), lists_digest=digest)
    assert sum(map(len, list_data(config, run, digest))) == 12
    del run  # and its lock
    prepare(config)  # somebody else's run, which has made lists of its own
    assert f"queued with {digest}" in refusal(capsys, "finetune", *argv, "--lists-digest", digest)


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
    assert "none of the 3 images of class dog can be read" in refused("torn")
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


def test_an_unknown_model_of_timm_is_refused_before_anything_is_acquired_or_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["finetune", "--data=data", *TINY, "--model=timm:resnet51"]) == 2
    assert not capsys.readouterr().out
    assert not Path("runs").exists()
