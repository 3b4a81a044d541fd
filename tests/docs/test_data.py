"""Each command of the page on data does what it says, on a few small images."""

import csv
import re
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from fcmae.launch.cli.main import main
from tests.data.archives_helper import picture as jpeg
from tests.data.archives_helper import write_imagenet, write_shard, write_tar

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
)
TRAINING = (
    "--image-size=64 --batch-size=4 --epochs=1 --images.workers=0 --device=cpu --loop.loggers=[] "
    "--network.depths=[1,1,1,1] --network.dims=[8,8,8,8] --optim.warmup-epochs=0"
)
SMALL = {
    "pretrain": f"{TRAINING} --decoder.dim=8",
    "finetune": f"{TRAINING} --model=convnextv2_atto --augment.auto-augment=null",
    "data": "--workers=0",
    "evaluate": "--workers=0 --device=cpu",
    "predict": "--workers=0 --device=cpu",
    "embed": "--workers=0 --device=cpu",
}


def commands(section: str) -> Iterator[list[str]]:
    for block in re.findall(r"^```bash\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            program, command, *words = shlex.split(line)
            assert program == "fcmae"
            if command == "submit":
                words[words.index("--") : words.index("--") + 1] = ["--cluster=debug", "--"]
            yield [command, *words, *SMALL[words[0] if command == "submit" else command].split()]


def run(section: str) -> None:
    for words in commands(section):
        assert main(words) == 0, words


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), np.uint8))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def save_folders(*folders: str) -> None:
    for folder in folders:
        for name in ("gull", "owl"):
            Path(folder, name).mkdir(parents=True)
            for i, picture in enumerate(pictures(5)):
                Image.fromarray(picture).save(Path(folder, name, f"{i}.jpg"))


def settings() -> list[Any]:
    """What each run says of its data."""
    found = [yaml.safe_load(path.read_text()) for path in sorted(Path("runs").glob("*/config.yaml"))]
    return [each["data"] for each in found]


@pytest.mark.slow
def test_folders() -> None:
    save_folders("photos", "more")
    Path("some.txt").write_text("photos/owl/0.jpg\nphotos/gull/1.jpg\n")
    run("Folders, several of them, and lists")
    assert sorted(settings()) == [["photos", "more"], ["photos", "more"], ["some.txt", "more"]]


def test_tables() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    save_folders("photos")
    names = [f"{name}/{i}" for name in ("gull", "owl") for i in range(5)]
    kinds = [name.partition("/")[0] for name in names]
    with open("birds.csv", "w", newline="") as file:
        rows = ([f"photos/{name}.jpg", kind] for name, kind in zip(names, kinds, strict=True))
        csv.writer(file).writerows([["file", "label"], *rows])
    part = ["train" if int(name[-1]) < 4 else "test" for name in names]
    parquet.write_table(pyarrow.table({"id": names, "species": kinds, "part": part}), "birds.parquet")
    fruit = (f"photos/{name}.jpg,{i % 2},{i % 3 // 2},{i / 2}" for i, name in enumerate(names))
    Path("fruit.csv").write_text("\n".join(["file,red,round,weight", *fruit]))
    run("Tables")
    with open("birds_predicted.csv", newline="") as file:
        predicted = list(csv.DictReader(file))
    assert [row["file"] for row in predicted] == [f"photos/{name}.jpg" for name in names]
    with open("fruit_predicted.csv", newline="") as file:
        assert list(next(csv.DictReader(file))) == ["file", "red", "round"]
    assert {row["class_1"] for row in predicted} <= {"gull", "owl"}


def test_hugging_face() -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
    kinds = datasets.ClassLabel(names=["gull", "owl"])
    features = datasets.Features({"picture": datasets.Image(), "species": kinds})
    rows = {
        "picture": [Image.fromarray(each) for each in pictures(10)],
        "species": [i % 2 for i in range(10)],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk("birds_hf")
    run("Hugging Face data sets")
    assert sorted(settings()) == ["birds_hf", "birds_hf:image=picture,label=species"]


def test_inspection(capsys: pytest.CaptureFixture[str]) -> None:
    save_folders("photos")
    run("What is in it, and is it sound?")
    assert Path("photos.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith("10 images, 0 faults\n")


@pytest.mark.slow
def test_archives() -> None:
    write_tar(Path("birds.tar"), {f"birds/{i}.jpg": jpeg(i) for i in range(8)})
    for split in ("train", "validation"):
        for shard in range(2):
            write_shard(Path(f"shards/birds-{split}-{shard:03}.tar"), 4 * shard, ["gull", "owl"] * 2)
    run("Tar archives and WebDataset's shards")
    predicted = Path("results.csv").read_text().splitlines()
    assert predicted[1].startswith("birds.tar/birds/0.jpg,")


@pytest.mark.slow
def test_imagenet() -> None:
    write_imagenet(Path("imagenet"))
    run("ImageNet-1K from the official downloads")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["atto", "atto_in1k", "base"]


@pytest.mark.slow
def test_imagenet_22k() -> None:
    write_imagenet(Path("imagenet"))
    with tarfile.open("imagenet/ILSVRC2012_img_train.tar") as archive:
        archive.extractall("imagenet22k", filter="data")
    run("ImageNet-22K")
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "base22k",
        "base_in22k",
        "base_in22k_in1k",
    ]


def test_packing() -> None:
    write_imagenet(Path("imagenet"))
    run("Reading is slow: pack")
    assert Path("packed/classes.txt").read_text().split()[0] == "n01440764"
    assert len(Path("packed/pack.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_arrays_and_slides() -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("zarr")
    slide = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    Path("slides").mkdir()
    for path in ("slide.tif", "slides/a.tif"):
        tifffile.imwrite(path, slide, photometric="rgb", tile=(32, 32), compression="zlib")
    np.save("cells.npy", np.stack(pictures(10)))
    np.save("kinds.npy", np.arange(10) % 2)
    np.savez("cells.npz", images=np.stack(pictures(10)), labels=np.arange(10) % 2)
    run("Arrays and slides")
    with np.load("tiles.npz") as tiles:
        assert len(tiles["features"]) == 3 * 4
        assert tiles["files"][-1] == "slide.tif picture 0 at 86,136"
