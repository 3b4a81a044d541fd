"""Hugging Face data sets on disk: files of the datasets package, and the same made by hand."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.decode import BrokenImage
from fcmae.data.images import Labelled
from fcmae.data.sources import SourceOptions, find_opener, open_source, open_splits
from fcmae.data.sources.huggingface import HuggingFaceOpener
from fcmae.data.sources.table import TableOpener

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

OPTIONS = SourceOptions(channels=1, size=8, val_fraction=0.5)
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["owl", "gull"]}}


def encoded(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8), shade).save(stream, "PNG")
    return stream.getvalue()


def table(shades: list[int], features: dict[str, Any] | None = None, **columns: list[Any]) -> Any:
    images = [{"bytes": encoded(shade), "path": None} for shade in shades]
    made = pyarrow.table({"image": images, "label": [shade % 2 for shade in shades], **columns})
    noted = {"info": {"features": FEATURES if features is None else features}}
    return made.replace_schema_metadata({"huggingface": json.dumps(noted)})


def write_arrow(path: Path, made: Any, rows: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, made.schema) as writer:
        writer.write_table(made, rows)
    return path


def write_parquet(path: Path, made: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(made, path, row_group_size=3)
    return path


def shades(source: Any) -> list[int]:
    return [int(source.read(i).max()) for i in range(len(source))]


def found(part: Labelled) -> dict[int, str]:
    return {
        shade: part.classes[label]
        for shade, label in zip(shades(part.source), part.labels.tolist(), strict=True)
    }


def expected(*numbers: int) -> dict[int, str]:
    return {number: ("owl", "gull")[number % 2] for number in numbers}


@pytest.mark.parametrize(
    "names",
    [
        (
            "train/data-00000-of-00002.arrow",
            "train/data-00001-of-00002.arrow",
            "test/data-00000-of-00001.arrow",
        ),
        ("a-train-00000-of-00002.arrow", "a-train-00001-of-00002.arrow", "a-test.arrow"),
        (
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test-0-of-1.parquet",
        ),
        (
            "plain_text/train-0-of-2.parquet",
            "plain_text/train-1-of-2.parquet",
            "plain_text/test-0-of-1.parquet",
        ),
        ("train-0-of-2.parquet", "train-1-of-2.parquet", "test-0-of-1.parquet"),
        ("TRAIN/0.parquet", "TRAIN/1.parquet", "TEST/0.parquet"),
    ],
)
def test_rows_are_images_by_number_in_the_order_of_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, numbers in zip(names, (range(7), range(7, 10), range(100, 104)), strict=True):
        write = write_arrow if name.endswith("arrow") else write_parquet
        write(tmp_path / "birds" / name, table(list(numbers)))
    opener = find_opener(str(tmp_path / "birds"))
    assert isinstance(opener, HuggingFaceOpener)
    assert (opener.name, opener.counts([]), opener.val_classes()) == ("birds", [10, 4], ["owl", "gull"])
    source = opener.open_images(OPTIONS)
    assert shades(source) == list(range(10))
    assert source.name(8) == f"{Path(names[1]).name} row 1"
    assert len(opener.open_everything(OPTIONS)) == 14
    train, val = opener.open_splits(OPTIONS)
    assert (found(train), found(val)) == (expected(*range(10)), expected(*range(100, 104)))
    assert found(opener.open_validation(OPTIONS)) == expected(*range(100, 104))


def test_one_piece_is_split_and_other_columns_are_named(tmp_path: Path) -> None:
    words = ["a", "b", "a", "b", "c", "c"]
    path = write_parquet(tmp_path / "birds.parquet", table(list(range(6)), {}, kind=words))
    train, val = open_splits(f"{path}:image=image,label=kind", OPTIONS)
    assert found(train) | found(val) == dict(enumerate(words))
    assert len(val.labels) == 3
    with pytest.raises(UserError, match="which of the columns image, label, kind is the label"):
        open_splits(f"{path}:label=sort", OPTIONS)
    with pytest.raises(UserError, match="'lable'"):
        open_splits(f"{path}:lable=kind", OPTIONS)


def test_rows_without_a_label_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = table(list(range(6))).set_column(1, "label", pyarrow.array([0, 1, -1, 0, None, 1]))
    train, val = open_splits(str(write_parquet(tmp_path / "a.parquet", made)), OPTIONS)
    assert set(found(train) | found(val)) == {0, 1, 3, 5}
    assert "2 rows have no label" in caplog.text


def test_what_is_told_of_the_data_changes_with_them(tmp_path: Path) -> None:
    path = write_arrow(tmp_path / "a" / "train.arrow", table(list(range(6))))
    before = find_opener(str(tmp_path / "a")).describe([])
    assert before == find_opener(str(tmp_path / "a")).describe([])
    assert before["images"] == 6
    write_arrow(path, table(list(range(7))))
    assert find_opener(str(tmp_path / "a")).describe([]) != before


def test_a_bad_row_is_a_broken_image(tmp_path: Path) -> None:
    images = [{"bytes": b"no image", "path": "x.png"}, {"bytes": None, "path": None}, {"bytes": encoded(5)}]
    made = pyarrow.table(
        {"image": pyarrow.array(images, pyarrow.struct({"bytes": "binary", "path": "string"}))}
    )
    Image.new("L", (8, 8), 7).save(tmp_path / "x.png")
    source = open_source(str(write_arrow(tmp_path / "a" / "rows.arrow", made)), OPTIONS)
    for i in range(2):
        with pytest.raises(BrokenImage, match=f"row {i}"):
            source.read(i)
    assert int(source.read(2).max()) == 5


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_files_cut_short_are_refused_or_broken_images(tmp_path: Path, suffix: str) -> None:
    write = write_arrow if suffix == ".arrow" else write_parquet
    path = write(tmp_path / f"train{suffix}", table(list(range(9))))
    content = path.read_bytes()
    for fraction in (0.0, 0.1, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(fraction * len(content))])
        with pytest.raises((UserError, BrokenImage), match="train"):
            shades(open_source(str(path), OPTIONS))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: table([1, 2], kinds=[[1], [2]]), "kinds holds list"),
        (lambda: table([1, 2], kinds=[0.5, 0.5]), "kinds holds double"),
    ],
)
def test_other_labels_are_refused(tmp_path: Path, made: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        open_splits(f"{write_parquet(tmp_path / 'a.parquet', made())}:label=kinds", OPTIONS)


def test_tables_and_folders_of_images_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("L", (8, 8), 7).save(tmp_path / "a" / "x.png")
    parquet.write_table(pyarrow.table({"file": ["a/x.png"]}), tmp_path / "all.parquet")
    assert isinstance(find_opener(str(tmp_path / "all.parquet")), TableOpener)
    for spec in (str(tmp_path), str(tmp_path / "all.parquet")):
        assert shades(open_source(spec, OPTIONS)) == [7]


def test_several_data_sets_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("coarse", "fine"):
        write_parquet(tmp_path / name / "train-0-of-1.parquet", table([1, 2]))
    with pytest.raises(UserError, match="coarse, fine"):
        find_opener(str(tmp_path))


def test_files_of_the_datasets_package_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
    kinds = datasets.Features({"pic": datasets.Image(), "kind": datasets.ClassLabel(names=["owl", "gull"])})

    def make(numbers: range) -> Any:
        pictures = [Image.fromarray(np.full((8, 8), number, np.uint8)) for number in numbers]
        rows = {"pic": pictures, "kind": [number % 2 for number in numbers]}
        return datasets.Dataset.from_dict(rows, features=kinds)

    both = datasets.DatasetDict({"train": make(range(10)), "validation": make(range(50, 54))})
    both.save_to_disk(str(tmp_path / "both"), num_shards={"train": 3, "validation": 1})
    both["train"].select([3, 1, 2]).save_to_disk(str(tmp_path / "some"))
    both["train"].to_parquet(str(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"))
    train, val = open_splits(str(tmp_path / "both"), OPTIONS)
    assert (found(train), found(val)) == (expected(*range(10)), expected(*range(50, 54)))
    assert shades(open_source(str(tmp_path / "some"), OPTIONS)) == [3, 1, 2]
    assert shades(open_source(str(tmp_path / "hub"), OPTIONS)) == list(range(10))
