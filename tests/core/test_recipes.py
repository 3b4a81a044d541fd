"""Which recipe a command line starts from."""

import pytest

from fcmae.core.recipes import find_recipe, option_value, recipe_names, take_option, with_recipe
from fcmae.finetune import settings as finetune
from fcmae.pretraining import settings as pretrain
from tests.launch.toys import refusal


def test_the_recipe_comes_first_so_that_every_option_wins_over_it() -> None:
    digits = str(find_recipe("digits", "fcmae.pretraining"))
    for argv in (["--seed", "1", "--config", "digits"], ["--seed", "1", "--config=digits"], ["--seed", "1"]):
        assert with_recipe(argv, "fcmae.pretraining", "digits") == ["--config", digits, "--seed", "1"]
    assert with_recipe(["--config"], "fcmae.pretraining", "digits") == ["--config"]  # the parser refuses it


def test_the_last_value_of_an_option_counts() -> None:
    assert option_value(["--data", "a", "--data=b"], "--data") == "b"
    assert option_value(["--dat=a"], "--data") is None


def test_an_option_is_taken_out_of_a_command_line() -> None:
    argv = ["--nodes", "2", "--out", "all", "--out=some"]
    assert take_option(argv, "--out") == ("some", ["--nodes", "2"])
    assert take_option(argv[:2], "--out") == (None, ["--nodes", "2"])


def test_recipes_are_known_by_name_and_unknown_ones_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "small_folder" in recipe_names("fcmae.finetune").split(", ")
    error = refusal(capsys, "pretrain", "--config", "convnextv2_ato")
    assert f"no built-in recipe of that name ({recipe_names('fcmae.pretraining')})" in error


@pytest.mark.parametrize("argv", [["--data=digits"], ["--data", "digits"]])
def test_naming_the_default_data_changes_nothing(argv: list[str]) -> None:
    assert pretrain.read(argv) == pretrain.read([])
    assert finetune.read(argv) == finetune.read([])
