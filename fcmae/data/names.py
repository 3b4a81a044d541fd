"""Data that is known by name: the built-in digits, and what timm's dataset factory reads."""

from pathlib import Path

from fcmae.data.config import DIGITS

TIMM = "timm:"  # before a name of timm's
ALIASES = {"cifar10": "timm:torch/cifar10", "cifar100": "timm:torch/cifar100"}


def full_name(data: str) -> str:
    """The name of the data, or its folder, with aliases resolved."""
    return ALIASES.get(data, data)


def is_folder(data: str) -> bool:
    """Whether the data is a folder and not known by name."""
    return data != DIGITS and not full_name(data).startswith(TIMM)


def short_name(data: str) -> str:
    """What a run on this data is called."""
    return data.rpartition("/")[2] if data.startswith(TIMM) else Path(data).resolve().name
