"""The command line: what is wrong is said in one line that names value and remedy, before anything slow."""

import importlib.metadata
import importlib.util
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import docstring_parser
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fcmae import list_models
from fcmae.core.settings import read_settings
from fcmae.data.config import ImagesConfig
from fcmae.engine.config import LoopConfig, OptimConfig
from fcmae.engine.loggers import JsonLines
from fcmae.launch.cli import pretrain
from fcmae.launch.cli.exit_status import Once
from fcmae.launch.cli.main import COMMANDS, main
from fcmae.pretraining.config import DecoderConfig, NetworkConfig, PretrainConfig
from fcmae.pretraining.prepare import prepare

TINY = {
    "image_size": 16,
    "epochs": 2,
    "batch_size": 4,
    "network": {"stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [2, 3, 4, 5]},
    "decoder": {"dim": 8},
    "images": {"workers": 0},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: pictures in images/, and a recipe for them, tiny.yaml, with the run in run/."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    Path("tiny.yaml").write_text(yaml.safe_dump({"data": "images", "out": "run", **TINY}))
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command which cannot work writes."""
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("fcmae: error: ")
    assert error.count("\n") == 1
    return error


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
        (["--images.workers", "-1"], "images.workers is -1", "0 reads in rank zero"),
        (["--images.crop-scale", "[2, 1]"], "images.crop_scale is (2.0, 1.0)", "give two shares"),
        (["--decoder.depth", "-1"], "decoder.depth is -1", "0 blocks or more"),
        (["--out", "tiny.yaml/run"], "tiny.yaml/run cannot be written", "choose another folder"),
        (["--out", "images"], "images is not empty, and not a run", "choose another folder"),
        (["--epohcs", "3"], "'--epohcs'", "did you mean '--epochs'?"),
        (["--optim.base-rl", "3"], "'--optim.base-rl'", "did you mean '--optim.base-lr'?"),
        (["--batchsize=3"], "'--batchsize'", "did you mean '--batch-size'?"),
        (["--lr", "3"], "'--lr'", "did you mean '--optim.lr'?"),
        (["--xyzzy", "3"], "'--xyzzy'", "fcmae pretrain --help lists all"),
        (["--optim.clip-grad", "much"], "optim.clip_grad is 'much'", "expected float, null"),
        (["--images.mean", "0.5"], "images.mean is '0.5'", "a list such as '[1, 2]'"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bad_input(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], value: str, remedy: str
) -> None:
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "0.png").write_text("no picture")
    error = pretrain_refusal(capsys, *options)
    assert value in error
    assert remedy in error


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_twelve_bits_in_files_of_sixteen(
    folder: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    for name in "abcd":
        (folder / "cells" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.full((20, 24), 4000 * i, np.uint16)
            Image.fromarray(pixels).save(folder / "cells" / name / f"{i}.png")
    words = ["--data", "cells", "--network.in-chans", "1", "--batch-size", "4", "--out", "new"]
    error = refusal(capsys, stage, "--config", "digits", *words)
    assert "give --images.value-range '[0, 4095]'" in error
    assert not Path("new").exists()


@pytest.mark.parametrize("pair", ["[64, 32]", "(64, 32)", "64, 32", "64,32"])
@pytest.mark.parametrize("nothing", ["none", "None", "null"])
def test_tuples_and_none_as_people_write_them(pair: str, nothing: str) -> None:
    config = pretrain.read(
        [
            *("--image-size", pair, f"--optim.betas={pair}", "--images.value-range", pair),
            *("--network.depths", "1,2,3,4", "--network.dims", nothing, f"--optim.clip-grad={nothing}"),
            *("--out", nothing, "--data", "none"),
        ]
    )
    assert config.image_size == config.optim.betas == config.images.value_range == (64, 32)
    assert config.network.depths == (1, 2, 3, 4)
    assert config.network.dims is config.optim.clip_grad is config.out is None
    assert config.data == "none"


def test_a_range_below_zero() -> None:
    assert pretrain.read(["--images.value-range", "-5,5"]).images.value_range == (-5, 5)


def test_unknown_key_of_a_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.yaml").write_text("data: images\nimagesize: 16\n")
    error = refusal(capsys, "pretrain", "--config", "wrong.yaml")
    assert "'imagesize'" in error
    assert "did you mean 'image_size'?" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_and_absent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = pretrain_refusal(capsys, "--device", "cuda")
    assert "--device cuda" in error
    assert "use --device cpu" in error


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has MPS")
def test_mps_asked_for_and_absent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "only macOS has it" in pretrain_refusal(capsys, "--device", "mps")


def test_minkowski_asked_for_and_absent(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    error = pretrain_refusal(capsys, "--layout", "minkowski")
    assert "MinkowskiEngine 0.5.4: the README says how to build it" in error


@pytest.fixture
def run(folder: Path) -> Path:
    """The folder of a run that has taken its first step."""
    run = prepare(read_settings(PretrainConfig, folder / "tiny.yaml"))
    JsonLines(run).log({"step": 1, "loss": 1.0})
    return run.path


def test_resuming_with_other_settings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = pretrain_refusal(capsys, "--model", "convnext_tiny", "--mask-ratio", "0.5")
    assert "run holds a different run" in error
    assert "model is convnextv2_atto there and convnext_tiny here" in error
    assert "mask_ratio is 0.6 there and 0.5 here" in error
    assert "hoose another folder" in error


def test_resuming_is_refused_where_it_is_not_wanted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "already holds a run" in pretrain_refusal(capsys, "--loop.resume", "false")


def test_a_run_beside_one_with_other_settings_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(read_settings(PretrainConfig, folder / "tiny.yaml"), out=None)
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


def test_a_checkpoint_that_is_not_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step_000000003.pt").write_text("no checkpoint")
    error = pretrain_refusal(capsys)
    assert "run/checkpoints/step_000000003.pt: damaged, or not a checkpoint" in error
    assert "delete run to start again" in error


def test_a_run_killed_before_it_kept_its_list_of_images_keeps_it_then(run: Path) -> None:
    (run / "images.npz").unlink()
    prepare(read_settings(PretrainConfig, Path("tiny.yaml")))
    assert (run / "images.npz").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretarin"], "unknown command 'pretarin': choose one of pretrain"),
        (["reconstruct", "images", "--images", "images"], "images is not the folder of a run"),
        (["reconstruct", "run", "--images", "nowhere"], "--images nowhere: no such folder"),
        (["reconstruct", "run", "--images", "images", "--out", "no/p.png"], "the folder no does not exist"),
        (["reconstruct", "run", "--images", "images"], "run holds no checkpoint yet"),
        (["reconstruct", "run"], "required: images"),
        (["reconstruct", "run", "--images", "images", "--device", "gpu"], "--device gpu: unknown device"),
        (["pretrain", "--config", "convnextv2_ato"], "no built-in recipe of that name (cifar10, "),
        (["reconstruct", "run", "--images", "images", "--count", "0"], "--count is 0: it must be at least 1"),
        (["info", "--stem-stride", "0"], "stem_stride 0: choose 4, 2 or 1"),
        (["info", "--image-size", "100"], "100 x 100 is not a multiple of the network's stride 32"),
    ],
)
def test_other_commands(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refusal(capsys, *words)


def test_what_is_wrong_is_found_before_torch_is_imported(folder: Path) -> None:
    """Importing torch takes seconds. All in one process of its own, which has not imported it yet."""
    options = [
        ["--data", "nowhere"], ["--model", "nothing"], ["--image-size", "30"], ["--mask-ratio", "2"],
        ["--out", "images"], ["--epohcs", "3"], ["--batch-size", "9"], ["--device", "gpu"],
    ]  # fmt: skip
    commands = [["pretrain", "--config", "tiny.yaml", *option] for option in options]
    script = (
        "import json, sys\nfrom fcmae.launch.cli.main import main\n"
        "print([main(words) for words in json.loads(sys.argv[1])], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{[2] * len(options)} False"
    assert not Path("run").exists()
    assert "Traceback" not in done.stderr


def squeezed(text: str) -> str:
    """Without white space, which wrapping puts in."""
    return re.sub(r"\s", "", text)


def test_a_warning_is_said_once() -> None:
    once = Once()
    records = [logging.makeLogRecord({"msg": "%d images", "args": (count,)}) for count in (3, 4, 3)]
    assert [once.filter(record) for record in records] == [True, True, False]


def test_help_has_hyphens_and_the_text_of_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["pretrain", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "--image-size" in text
    assert "--optim.weight-decay" in text
    assert "oroneofcifar10,convnextv2_atto,convnextv2_base" in squeezed(text)
    assert not re.search(r"--[\w.]*_", text)
    for kind in (PretrainConfig, NetworkConfig, DecoderConfig, OptimConfig, ImagesConfig, LoopConfig):
        described = {each.arg_name: each.description for each in docstring_parser.parse(kind.__doc__).params}
        assert described.keys() == kind.__dataclass_fields__.keys()
        for name, description in described.items():
            assert squeezed(description) in squeezed(text), name


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "submit"])
def test_help_names_the_types_of_values(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert not re.search("<class|<function", capsys.readouterr().out)


def test_help_says_what_a_reconstruction_takes_from_the_original(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reconstruct", "--help"])
    assert squeezed("each hidden patch its own true mean") in squeezed(capsys.readouterr().out)


def test_a_full_disk_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(argv: list[str]) -> int:
        return Path("/dev/full").write_text("results")

    monkeypatch.setattr("fcmae.launch.cli.embed.run", write)
    assert main(["embed"]) == 2
    assert "No space left on device: make room" in capsys.readouterr().err


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    for name in ("pretrain", "reconstruct", "info"):
        assert f"fcmae {name}" in text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == importlib.metadata.version("fcmae")


def test_info_lists_every_model_and_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if "convnext" in line}
    assert list(rows) == list_models()
    assert " 28.6 " in rows["convnextv2_tiny"]
    assert " 4.47 " in rows["convnextv2_tiny"]
