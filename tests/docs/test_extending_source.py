"""A new kind of data from outside: a class, registered; then it pre-trains, lists and is labelled."""

from pathlib import Path

import pytest
import torch
import yaml

from fcmae.data import sources
from fcmae.data.images import ArraySource, ImageSource, Labelled
from fcmae.data.sources import Opener, SourceOptions
from fcmae.launch.cli.main import main

TINY = {
    "image_size": 16,
    "batch_size": 8,
    "epochs": 1,
    "device": "cpu",
    "network": {"in_chans": 1, "stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]},
    "images": {"workers": 0},
}


class StripesOpener(Opener):
    """Stripes of some width, lying or standing: `--data stripes:3`."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        return spec.startswith("stripes:")

    def open_images(self, options: SourceOptions) -> ImageSource:
        return self.draw(options).source

    def open_splits(self, options: SourceOptions) -> tuple[Labelled, Labelled]:
        return self.draw(options).split(options.val_fraction, options.seed)

    def draw(self, options: SourceOptions) -> Labelled:
        width = int(self.spec.removeprefix("stripes:"))
        stripes = torch.arange(options.size + 20) // width % 2 * 255
        lying = torch.stack([stripes[i : i + options.size, None].expand(-1, options.size) for i in range(20)])
        images = torch.cat([lying, lying.mT]).to(torch.uint8)[:, None].expand(-1, options.channels, -1, -1)
        labels = torch.arange(2).repeat_interleave(20)
        return Labelled(ArraySource(images, "stripes"), labels, ["lying", "standing"])


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "OPENERS", list(sources.OPENERS))
    monkeypatch.chdir(tmp_path)
    sources.register_opener(StripesOpener)


def run(command: str, settings: dict[str, object]) -> None:
    Path(f"{command}.yaml").write_text(yaml.safe_dump(TINY | settings))
    assert main([command, "--config", f"{command}.yaml", "--data", "stripes:3"]) == 0


def test_it_pre_trains_and_is_watched_by_labels(capsys: pytest.CaptureFixture[str]) -> None:
    run("pretrain", {"decoder": {"dim": 16}, "probe_data": "stripes:2", "probe_every": 1})
    output = capsys.readouterr().out
    assert "pre-training convnextv2_atto on stripes:3, 16 x 16" in output
    assert "done: 5 steps" in output
    run_folder = Path("runs/stripes-3-convnextv2_atto")
    assert '"knn": ' in (run_folder / "log.jsonl").read_text()
    assert (run_folder / "encoder.safetensors").exists()
    assert not list(run_folder.glob("*.npz"))


def test_it_is_trained_on_and_measured_by_labels(capsys: pytest.CaptureFixture[str]) -> None:
    run("finetune", {"augment": {"auto_augment": None}})
    assert "on stripes:3, 16 x 16" in capsys.readouterr().out
    weights = ["--weights", "runs/finetune-stripes-3-convnextv2_atto", "--device", "cpu", "--workers", "0"]
    for data in ([], ["--data", "stripes:3"], ["--data", "stripes:1"]):
        assert main(["evaluate", *weights, *data]) == 0
        assert "\n8 images, 0 unreadable" in capsys.readouterr().out
    assert main(["probe", *weights, "--data", "stripes:2"]) == 0
    assert "(32 training and 8 validation images)" in capsys.readouterr().out
