"""Pre-train a ConvNeXt on images without labels by masked autoencoding, and use it."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.models.convnext import ConvNeXt, create_model
    from fcmae.models.layouts import create_layout
    from fcmae.models.mask import Mask
    from fcmae.models.sizes import list_models
    from fcmae.models.weights import create_model_from, load_weights
    from fcmae.pretraining.model import FCMAE

__version__ = "0.1.0"
__all__ = [
    "FCMAE",
    "ConvNeXt",
    "Mask",
    "create_layout",
    "create_model",
    "create_model_from",
    "list_models",
    "load_weights",
]

_HOMES = {
    "ConvNeXt": "fcmae.models.convnext",
    "FCMAE": "fcmae.pretraining.model",
    "Mask": "fcmae.models.mask",
    "create_layout": "fcmae.models.layouts",
    "create_model": "fcmae.models.convnext",
    "create_model_from": "fcmae.models.weights",
    "list_models": "fcmae.models.sizes",
    "load_weights": "fcmae.models.weights",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: torch takes seconds, and a wrong setting is found without it."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
