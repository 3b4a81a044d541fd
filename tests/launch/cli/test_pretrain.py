"""`fcmae pretrain`: what is wrong is said in one line that names value and remedy, before anything slow."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import docstring_parser
import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.core.settings import read_settings
from fcmae.data.config import ImagesConfig
from fcmae.data.index import describe_lists
from fcmae.engine.config import LoopConfig, OptimConfig
from fcmae.engine.loggers import JsonLines
from fcmae.launch.cli.main import main
from fcmae.pretraining import settings
from fcmae.pretraining.config import DecoderConfig, EncoderConfig, PretrainAugmentConfig, PretrainConfig
from fcmae.pretraining.prepare import list_data, prepare
from tests.launch.toys import help_of, make_pictures, refusal, squeezed


def pretrain_refusal(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    return refusal(capsys, "pretrain", "--config", "tiny.yaml", *options)


@pytest.mark.parametrize(
    ("options", "value", "remedy"),
    [
        (["--data", "nowhere"], "nowhere does not exist", "give a folder"),
        (["--data", "images/0.png"], "0.png is a file", "give the folder"),
        (["--data", "empty"], "empty holds no image", "looked in all its folders"),
        (["--data", "broken"], "no readable image", "are they images?"),
        (["--image-size", "30"], "30 x 30", "nearest is 32 x 32"),
        (["--image-size", "[16, 30]"], "16 x 30", "nearest is 16 x 32"),
        (["--model", "convnextv2_ato"], "'convnextv2_ato'", "did you mean convnextv2_atto?"),
        (["--layout", "tile"], "'tile'", "choose one of tiles, masked, minkowski"),
        (["--mask-ratio", "1.5"], "1.5 is outside (0, 1)", "0.6"),
        (["--mask-ratio", "0"], "0.0 is outside (0, 1)", "0.6"),
        (["--mask-ratio", "0.9"], "0.9 hides all 4 patches", "lower the ratio"),
        (["--batch-size", "9"], "9 is more than the 8 images", "--batch-size 8"),
        (["--epochs", "0"], "epochs is 0", "at least 1"),
        (["--epochs", "many"], "'many'", "expected int"),
        (["--device", "tpu"], "--device tpu", "use auto, cpu, cuda"),
        (["--seed", "-1"], "seed is -1", "at least 0"),
        (["--network.stem-stride", "3"], "stem_stride 3", "choose 4, 2 or 1"),
        (["--network.dims", "[2, 3, 4, 0]"], "network.dims is 0", "at least 1"),
        (["--network.drop-path-rate", "1.5"], "drop_path_rate is 1.5", "below 1"),
        (["--optim.warmup-epochs", "3"], "warmup_epochs is 3 in a run of 2 epochs", "lower it"),
        (["--optim.base-lr", "0"], "base_lr is 0.0", "above 0"),
        (["--optim.accumulation_steps", "3"], "batch_size 4 cannot be cut", "choose a multiple"),
        (["--optim.betas", "[0.9, 2]"], "optim.betas are (0.9, 2.0)", "below 1"),
        (["--optim.weight-decay", "-1"], "optim.weight_decay is -1.0", "must not be below 0"),
        (["--loop.save-every", "0"], "loop.save_every is 0", "above 0"),
        (["--images.workers", "-1"], "images.workers is -1", "0 reads in the process that trains"),
        (["--images.crop-scale", "[2, 1]"], "images.crop_scale is (2.0, 1.0)", "give two fractions"),
        (["--decoder.depth", "-1"], "decoder.depth is -1", "0 blocks or more"),
        (["--out", "tiny.yaml/run"], "tiny.yaml/run: Not a directory", "choose another folder"),
        (["--out", "images"], "images is not empty, and not a run", "choose another folder"),
        (["--epohcs", "3"], "'--epohcs'", "did you mean '--epochs'?"),
        (["--optim.base-rl", "3"], "'--optim.base-rl'", "did you mean '--optim.base-lr'?"),
        (["--batchsize=3"], "'--batchsize'", "did you mean '--batch-size'?"),
        (["--lr", "3"], "'--lr'", "did you mean '--optim.lr'?"),
        (["--xyzzy", "3"], "'--xyzzy'", "fcmae pretrain --help lists all"),
        (["--optim.clip-grad", "much"], "optim.clip_grad is 'much'", "expected float, null"),
        (["--images.mean", "0.5"], "images.mean is '0.5'", "a list such as '[1, 2]'"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_bad_input(
    pictures: Path, capsys: pytest.CaptureFixture[str], options: list[str], value: str, remedy: str
) -> None:
    (pictures / "empty").mkdir()
    (pictures / "broken").mkdir()
    (pictures / "broken" / "0.png").write_text("no picture")
    error = pretrain_refusal(capsys, *options)
    assert value in error
    assert remedy in error


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_twelve_bits_in_files_of_sixteen(
    directory: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for name in "abcd":
        (directory / "cells" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.full((20, 24), 4000 * i, np.uint16)
            Image.fromarray(pixels).save(directory / "cells" / name / f"{i}.png")
    argv = ["--data", "cells", "--network.in-chans", "1", "--batch-size", "4", "--out", "new"]
    error = refusal(capsys, command, "--config", "digits", *argv)
    assert "give --images.value-range '[0, 4095]'" in error
    assert not Path("new").exists()


@pytest.mark.parametrize("pair", ["[64, 32]", "(64, 32)", "64, 32", "64,32"])
@pytest.mark.parametrize("nothing", ["none", "None", "null"])
def test_tuples_and_none_as_people_write_them(pair: str, nothing: str) -> None:
    config = settings.read(
        [
            *("--image-size", pair, f"--optim.betas={pair}", "--images.value-range", pair),
            *("--network.depths", "1,2,3,4", "--network.dims", nothing, f"--optim.clip-grad={nothing}"),
            *("--out", nothing, "--data", "none"),
        ]
    )
    assert config.image_size == config.optim.betas == config.images.value_range == (64, 32)
    assert config.network.depths == (1, 2, 3, 4)
    assert (config.network.dims, config.optim.clip_grad, config.out) == (None, None, None)
    assert config.data == "none"


def test_a_range_below_zero() -> None:
    assert settings.read(["--images.value-range", "-5,5"]).images.value_range == (-5, 5)


def test_unknown_key_of_a_recipe(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.yaml").write_text("data: images\nimagesize: 16\n")
    error = refusal(capsys, "pretrain", "--config", "wrong.yaml")
    assert "'imagesize'" in error
    assert "did you mean 'image_size'?" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_and_absent(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = pretrain_refusal(capsys, "--device", "cuda")
    assert "--device cuda" in error
    assert "use --device cpu" in error


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has MPS")
def test_mps_asked_for_and_absent(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "only macOS has it" in pretrain_refusal(capsys, "--device", "mps")


def test_minkowski_asked_for_and_absent(
    pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    error = pretrain_refusal(capsys, "--layout", "minkowski")
    assert "MinkowskiEngine 0.5.4: the README says how to build it" in error


def test_resuming_with_other_settings(started_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = pretrain_refusal(capsys, "--model", "convnext_tiny", "--mask-ratio", "0.5")
    assert "run holds a different run" in error
    assert "model is convnextv2_atto there and convnext_tiny here" in error
    assert "mask_ratio is 0.6 there and 0.5 here" in error
    assert "hoose another folder" in error


def test_a_run_goes_on_with_more_epochs_and_images_that_moved(
    pictures: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["pretrain", "--config", "tiny.yaml"]) == 0
    Path("images").rename("moved")
    again = ["pretrain", "--config", "tiny.yaml", "--epochs", "4", "--data", "moved"]
    assert "data is images there and moved here" in pretrain_refusal(capsys, *again[3:])
    assert main([*again, "--change", "--optim.clip-grad", "1"]) == 0
    for change in ("epochs 4, was 2", "data moved, was images", "optim.clip_grad 1.0, was None"):
        assert change in caplog.text
    assert "done: 8 steps" in capsys.readouterr().out
    assert Path("run/schedule.png").is_file()
    assert not list(Path("run").glob("broken*"))
    assert main([*again, "--optim.clip-grad", "1"]) == 0


def test_images_that_are_not_where_they_are_said_to_have_moved(
    started_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pictures(Path("other"), 2)
    for options, said in (
        (["--data", "other"], "does not exist: other must hold what images held"),
        (["--data", "digits"], "only a folder of images can have moved"),
        (["--decoder.dim", "4"], "decoder.dim is 8 there and 4 here"),
    ):
        assert said in pretrain_refusal(capsys, "--change", *options)


def test_resuming_is_refused_where_it_is_not_wanted(
    started_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "already holds a run" in pretrain_refusal(capsys, "--loop.resume", "false")


def test_a_run_beside_one_with_other_settings_says_so(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(read_settings(PretrainConfig, pictures / "tiny.yaml"), out=None)
    name = "runs/images-convnextv2_atto"
    runs: list[tuple[str, dict[str, Any]]] = [
        (name, {}),
        (f"{name}-2", {"epochs": 3}),
        (f"{name}-3", {"epochs": 3, "seed": 1}),
        (f"{name}-2", {"epochs": 3}),  # found again, and so resumed
    ]
    said = []
    for run_name, changes in runs:
        caplog.clear()
        run = prepare(replace(config, **changes))
        JsonLines(run).log({"step": 1, "loss": 1.0})
        assert run.path == Path(run_name)
        said.append(caplog.messages)
    assert said == [
        [],
        [f"{name} holds a run (epochs is 2 there and 3 here); this one is new: {name}-2"],
        [f"{name}-2 holds a run (seed is 0 there and 1 here); this one is new: {name}-3"],
        [],
    ]


def test_a_checkpoint_that_is_not_one(started_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (started_run / "checkpoints").mkdir()
    (started_run / "checkpoints" / "step_000000003.pt").write_text("no checkpoint")
    error = pretrain_refusal(capsys)
    assert "run/checkpoints/step_000000003.pt: damaged, or not a checkpoint" in error
    assert "delete run to start again" in error


def test_a_run_killed_before_it_kept_its_list_of_images_keeps_it_then(started_run: Path) -> None:
    (started_run / "images.npz").unlink()
    prepare(read_settings(PretrainConfig, Path("tiny.yaml")))
    assert (started_run / "images.npz").exists()


def test_a_queued_run_sees_the_images_of_its_submission(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_settings(PretrainConfig, Path("tiny.yaml"))
    run = prepare(config)
    digest = str(describe_lists(list_data(config, run))["digest"])
    shutil.copy("images/0.png", "images/new.png")
    assert len(list_data(config, run)[0]) == 9
    assert len(list_data(config, prepare(config, lists_digest=digest), digest)[0]) == 8
    del run  # and its lock
    prepare(config)  # somebody else's run, which has made a list of its own
    assert f"queued with {digest}" in pretrain_refusal(capsys, "--lists-digest", digest)


def test_what_is_wrong_is_found_before_torch_is_imported(pictures: Path) -> None:
    """Importing torch takes seconds. All in one process of its own, which has not imported it yet."""
    options = [
        ["--data", "nowhere"], ["--model", "nothing"], ["--image-size", "30"], ["--mask-ratio", "2"],
        ["--out", "images"], ["--epohcs", "3"], ["--batch-size", "9"], ["--device", "gpu"],
    ]  # fmt: skip
    commands = [["pretrain", "--config", "tiny.yaml", *option] for option in options]
    script = (
        "import json, sys\nfrom fcmae.launch.cli.main import main\n"
        "print([main(argv) for argv in json.loads(sys.argv[1])], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{[2] * len(options)} False"
    assert not Path("run").exists()
    assert "Traceback" not in done.stderr


def test_help_has_hyphens_and_the_text_of_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "pretrain")
    assert "--image-size" in text
    assert "--optim.weight-decay" in text
    assert "oroneofcifar10,continue,convnextv2_atto" in squeezed(text)
    assert not re.search(r"--[\w.]*_", text)
    kinds = (PretrainConfig, EncoderConfig, DecoderConfig, PretrainAugmentConfig, OptimConfig)
    for kind in (*kinds, ImagesConfig, LoopConfig):
        described = {each.arg_name: each.description for each in docstring_parser.parse(kind.__doc__).params}
        assert described.keys() == kind.__dataclass_fields__.keys()
        for name, description in described.items():
            assert squeezed(description or name) in squeezed(text), name
