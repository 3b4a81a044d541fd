"""Tables of paths and labels: columns by name or by option, splits, classes, and what is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.images import Labelled
from fcmae.data.index import load_lists, save_lists
from fcmae.data.sources import SourceOptions, find_opener, open_source, open_splits

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

OPTIONS = SourceOptions(channels=1, size=8, val_fraction=0.5)
ROWS = [(f"{i}.png", ("owl", "gull")[i % 2], ("train", "train", "train", "val")[i // 2]) for i in range(8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images, each of a brightness of its own."""
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.new("L", (8, 8), i).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


def write(path: Path, columns: dict[str, list[Any]], separator: str = ",") -> str:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table(columns), path)
    else:
        lines = [separator.join(map(str, row)) for row in (columns, *zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines))
    return str(path)


def found(parts: tuple[Labelled, ...]) -> list[dict[int, str]]:
    """The class of each brightness, of each part."""
    return [
        {int(part.source.read(i).max()): part.classes[label] for i, label in enumerate(part.labels.tolist())}
        for part in parts
    ]


@pytest.mark.parametrize("name", ["birds.csv", "birds.tsv", "birds.parquet"])
def test_usual_names_of_columns_need_no_option(folder: Path, name: str, tmp_path: Path) -> None:
    columns = {"label": [row[1] for row in ROWS], "file": [row[0] for row in ROWS]}
    spec = write(folder / name, columns, "\t" if name.endswith("tsv") else ",")
    source = open_source(spec, OPTIONS)
    assert [int(source.read(i).max()) for i in range(8)] == list(range(8))
    lists = find_opener(spec).list_splits(0.5, seed=0)
    save_lists(lists, tmp_path / "train.npz", tmp_path / "val.npz")
    Path(spec).unlink()  # a run keeps its lists, labels among them
    kept = SourceOptions(1, 8, lists=load_lists(tmp_path / "train.npz", tmp_path / "val.npz"))
    train, val = found(open_splits(spec, kept))
    assert train | val == {i: ROWS[i][1] for i in range(8)}
    assert (len(train), len(val)) == (4, 4)


def test_columns_folders_and_suffixes_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    columns: dict[str, list[Any]] = {
        "id": list(range(8)),
        "note, quoted": ['"a ""b"""'] * 8,
        "species": [row[1] for row in ROWS],
        "part": [row[2].upper() for row in ROWS],
    }
    table = write(folder.parent / "a.csv", columns, ";")
    spec = f"{table}:path=id,label=species,split=part,folder=images,suffix=.png"
    assert found(open_splits(spec, OPTIONS)) == [
        {i: ROWS[i][1] for i in range(6)},
        {i: ROWS[i][1] for i in range(6, 8)},
    ]
    assert len(open_source(spec, OPTIONS)) == 6
    assert "2 images" in caplog.text
    opener = find_opener(spec)
    assert len(opener.open_everything(OPTIONS)) == 8
    assert found((opener.open_validation(OPTIONS),)) == [{6: "owl", 7: "gull"}]
    assert opener.name == "a"
    assert opener.is_same(find_opener(table), [])


def test_numbers_are_classes_in_their_order(folder: Path) -> None:
    for labels, name in (([2, 10] * 4, "a.csv"), ([2, 10] * 4, "a.parquet"), ([2.0, 10.0] * 4, "b.parquet")):
        columns = {"path": [row[0] for row in ROWS], "label": labels}
        train, _ = open_splits(write(folder / name, columns), OPTIONS)
        assert train.classes == ["2", "10"]


def test_tables_are_joined_with_folders(folder: Path, tmp_path: Path) -> None:
    columns = {"path": [row[0] for row in ROWS], "label": [row[1] for row in ROWS]}
    for i in range(2):
        (tmp_path / "more" / "owl").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 100 + i).save(tmp_path / "more" / "owl" / f"{i}.png")
    parts = found(open_splits([write(folder / "a.csv", columns), str(tmp_path / "more")], OPTIONS))
    assert parts[0] | parts[1] == {**{i: ROWS[i][1] for i in range(8)}, 100: "owl", 101: "owl"}


@pytest.mark.parametrize(
    ("columns", "options", "told"),
    [
        ({"path": ["0.png"], "label": ["a"]}, ":lable=label", "lable"),
        ({"path": ["0.png"], "label": ["a"]}, ":label=kind", "kind"),
        ({"path": ["0.png"], "label": ["a"]}, ":label=", "label"),
        ({"number": ["0"], "label": ["a"]}, "", "path=COLUMN"),
        ({"path": ["0.png"], "kind": ["a"]}, "", "label=COLUMN"),
        ({"path": ["0.png", ""], "label": ["a", "b"]}, "", "row 2"),
        ({"path": ["0.png", "1.png"], "label": ["a", ""]}, "", "row 2"),
        ({"path": ["0.png"], "label": [0.5]}, "", "0.5"),
        ({"path": ["0.png", "1.png"], "label": ["a", "b"], "split": ["train", "3"]}, "", "3"),
        ({"path": [], "label": []}, "", "no rows"),
        ({"path": ["0.png", "1.png"], "label": ["a", "a"]}, "", "one class"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_what_cannot_be_is_told(
    folder: Path, columns: dict[str, list[Any]], options: str, told: str, name: str
) -> None:
    spec = write(folder / name, columns) + options
    with pytest.raises(UserError, match=told) as caught:
        find_opener(spec).list_splits(0.5, seed=0)
    assert str(folder) in str(caught.value)


def labels_of(spec: str) -> tuple[Labelled, Labelled]:
    """Parts of a table of eight rows, all of which are read, through lists that a run keeps."""
    lists = find_opener(spec).list_splits(0.5, seed=0)
    folder = Path(spec.partition(":")[0]).parent
    save_lists(lists, folder / "train.npz", folder / "val.npz")
    return open_splits(spec, SourceOptions(1, 8, lists=load_lists(folder / "train.npz", folder / "val.npz")))


def rows_of(parts: tuple[Labelled, ...]) -> dict[int, list[float]]:
    """The labels of each brightness."""
    return {
        int(part.source.read(i).max()): label
        for part in parts
        for i, label in enumerate(part.labels.tolist())
    }


TAGS = ["b|a", "", "a", "c; b", "a", "b", "c", "a,c"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_several_labels_are_words_in_a_cell_or_columns_of_their_own(folder: Path, name: str) -> None:
    lists = [[word.strip() for word in tags.replace(";", "|").replace(",", "|").split("|")] for tags in TAGS]
    columns: dict[str, list[Any]] = {"path": [row[0] for row in ROWS]}
    columns |= {letter: [int(letter in tags) for tags in lists] for letter in "abc"}
    columns["tags"] = lists if name.endswith("parquet") else [f'"{tags}"' for tags in TAGS]
    spec = write(folder / name, columns)
    expected = {i: [float(letter in tags) for letter in "abc"] for i, tags in enumerate(lists)}
    for option in ("tags", "a+b+c"):
        parts = labels_of(f"{spec}:labels={option}")
        assert [(part.kind, part.classes, len(part.labels)) for part in parts] == [
            ("labels", ["a", "b", "c"], 4)
        ] * 2
        assert rows_of(parts) == expected


def test_numbers_are_columns(folder: Path) -> None:
    sizes = [0.5 * i for i in range(8)]
    columns: dict[str, list[Any]] = {"path": [row[0] for row in ROWS], "age": list(range(8)), "size": sizes}
    for name in ("a.csv", "a.parquet"):
        parts = labels_of(f"{write(folder / name, columns)}:numbers=age+size")
        assert {(part.kind, tuple(part.classes)) for part in parts} == {("numbers", ("age", "size"))}
        assert rows_of(parts) == {i: [i, 0.5 * i] for i in range(8)}


@pytest.mark.parametrize(
    ("column", "option", "told"),
    [
        (["a|b"] * 8, "label=y,labels=y", "one of label and labels"),
        (["a"] * 8, "labels=y", "fewer than two"),
        ([2] * 8, "labels=y+y", "row 1 says '2'"),
        (["x"] * 8, "numbers=y", "row 1 says 'x'"),
        (["nan"] * 8, "numbers=y", "row 1 says 'nan'"),
        ([1] * 8, "numbers=z", "no column 'z'"),
        ([1] * 8, "label=y+path", "labels="),
    ],
)
def test_labels_that_cannot_be_are_told(folder: Path, column: list[Any], option: str, told: str) -> None:
    spec = write(folder / "a.csv", {"path": [row[0] for row in ROWS], "y": column})
    with pytest.raises(UserError, match=told):
        find_opener(f"{spec}:{option}").list_splits(0.5, seed=0)


def test_several_labels_in_a_column_of_classes_are_told(folder: Path) -> None:
    spec = write(folder / "a.parquet", {"path": ["0.png"], "label": [["a", "b"]]})
    with pytest.raises(UserError, match=":labels="):
        find_opener(spec).list_splits(0.5, seed=0)


def test_what_is_no_table_is_refused(folder: Path) -> None:
    (folder / "a.csv").write_bytes(b"\0\1\2")
    (folder / "a.parquet").write_bytes(b"PAR1 and nothing more")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(UserError, match=name):
            find_opener(str(folder / name)).list_images()
