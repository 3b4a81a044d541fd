"""The layouts that a network can run in on masked images, by name.

A new one is a file with a class, and a line here; or a class anywhere, and a call of `register_layout`. Their
modules import torch and this one does not, so that a wrong name is refused in a second.
"""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fcmae.core.errors import UserError

if TYPE_CHECKING:
    from fcmae.models.layouts.base import Layout
    from fcmae.models.mask import Mask


@dataclass(frozen=True)
class Entry:
    """A layout that can be asked for.

    Args:
        layout: the class, made from a batch's mask; or where it is, "module:class", to be imported when used
        package: what it needs beside PyTorch, by the name under which that is imported
        install: the package, its version, and where it is said how to install it
    """

    layout: "type[Layout] | str"
    package: str | None = None
    install: str = ""


LAYOUTS = {
    "tiles": Entry("fcmae.models.layouts.tiles:TilesLayout"),
    "masked": Entry("fcmae.models.layouts.masked:MaskedLayout"),
    "minkowski": Entry(
        "fcmae.models.layouts.minkowski:MinkowskiLayout",
        package="MinkowskiEngine",
        install="MinkowskiEngine 0.5.4: the README says how to build it (section Layouts)",
    ),
}


def register_layout(name: str, layout: "type[Layout]") -> None:
    """Let a layout be asked for by name, as the setting `layout` does; a name that is taken is given anew."""
    LAYOUTS[name] = Entry(layout)


def check_layout(name: str) -> None:
    """Refuse a name that is not registered, and a layout whose package is not installed.

    Raises:
        UserError: the message lists the names, or says what to install
    """
    if name not in LAYOUTS:
        raise UserError(f"unknown layout {name!r}: choose one of {', '.join(LAYOUTS)}")
    package = LAYOUTS[name].package
    if package is not None and find_spec(package) is None:
        raise UserError(f"layout {name!r} needs {LAYOUTS[name].install}; or use tiles")


def find_layout(name: str) -> "type[Layout]":
    """Return the class of the layout of that name, to be called with a batch's mask.

    Raises:
        UserError: the name is not registered, or the layout's package is not installed
    """
    check_layout(name)
    layout = LAYOUTS[name].layout
    if isinstance(layout, str):
        module, _, attribute = layout.partition(":")
        found: type[Layout] = getattr(importlib.import_module(module), attribute)
        return found
    return layout


def create_layout(name: str, mask: "Mask") -> "Layout":
    """Return the layout of that name for the batch of this mask.

    Raises:
        UserError: the name is not registered, or the layout's package is not installed
    """
    return find_layout(name)(mask)
