"""The table of the CIFAR-10 benchmark: last epochs only, each start's runs together, gains seed by seed."""

from pathlib import Path

import pytest


def test_table_of_means_and_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from cifar10 import Cell, table

    last = {("scratch", 0): 50.0, ("scratch", 1): 54.0, ("FCMAE", 0): 61.0, ("FCMAE", 1): 63.0}
    curves = {Cell("V2", 0.1, *key): [90.0, value] for key, value in last.items()}
    curves |= {Cell("V1", 1.0, start, 0): [70.0] for start in ("scratch", "FCMAE")}
    assert table(curves)[2:] == [
        "| ConvNeXt V2 | 10% | 52.0 ± 2.8 | 62.0 ± 1.4 | 10.0 ± 1.4 |",
        "| ConvNeXt V1 | 100% | 70.0 | 70.0 | 0.0 |",
    ]
