"""The CIFAR-10 benchmark: the data are there before any run starts, and the table tells the last epochs."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cifar10
import pytest


def test_data_are_downloaded_once_before_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []

    def run(words: list[str], **_: Any) -> SimpleNamespace:
        events.append(("run", words[words.index("--data-root") + 1]))
        out = Path(words[words.index("--out") + 1])
        out.mkdir()
        (out / "log.jsonl").write_text(json.dumps({"step": 1, "top1": 50.0}) + "\n")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(cifar10, "open_splits", lambda _, options: events.append(("open", options.root)))
    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(
        sys, "argv", ["cifar10", "--out", str(tmp_path), "--data-root", "there", "--at-once=2"]
    )
    cifar10.main()
    assert events == [("open", "there")] + [("run", "there")] * (2 + 12 + 4)


def test_table_of_means_and_gains() -> None:
    last = {("scratch", 0): 50.0, ("scratch", 1): 54.0, ("FCMAE", 0): 61.0, ("FCMAE", 1): 63.0}
    curves = {cifar10.Cell("V2", 0.1, *key): [90.0, value] for key, value in last.items()}
    curves |= {cifar10.Cell("V1", 1.0, start, 0): [70.0] for start in ("scratch", "FCMAE")}
    assert cifar10.table(curves)[2:] == [
        "| ConvNeXt V2 | 10% | 52.0 ± 2.8 | 62.0 ± 1.4 | 10.0 ± 1.4 |",
        "| ConvNeXt V1 | 100% | 70.0 | 70.0 | 0.0 |",
    ]
