"""What is computed: networks, the layouts they run in, and their kernels. Imports nothing else of ours."""

import importlib
from typing import TYPE_CHECKING, Any

from models.sizes import list_models

if TYPE_CHECKING:
    from models.convnext import ConvNeXt, create_model
    from models.layouts import create_layout
    from models.weights import create_model_from, load_weights

__all__ = ["ConvNeXt", "create_layout", "create_model", "create_model_from", "list_models", "load_weights"]

HOMES = {
    "ConvNeXt": "models.convnext",
    "create_layout": "models.layouts",
    "create_model": "models.convnext",
    "create_model_from": "models.weights",
    "load_weights": "models.weights",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use, so that a wrong setting is found before that takes seconds."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
