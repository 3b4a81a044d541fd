"""`fcmae info`: the table of sizes."""

import pytest

from fcmae import list_models
from fcmae.launch.cli.main import main
from tests.launch.toys import refusal


def test_every_model_is_listed_with_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if "convnext" in line}
    assert list(rows) == list_models()
    assert " 28.6 " in rows["convnextv2_tiny"]
    assert " 4.47 " in rows["convnextv2_tiny"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stem-stride", "0"], "stem_stride 0: choose 4, 2 or 1"),
        (["--image-size", "100"], "100 x 100 is not a multiple of the network's stride 32"),
        (["--mask-ratio", "2"], "2.0 is outside (0, 1)"),
    ],
)
def test_sizes_that_cannot_be(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refusal(capsys, "info", *argv)
