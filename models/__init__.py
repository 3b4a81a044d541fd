"""What is computed: networks, the layouts they run in, and their kernels. Imports nothing else of ours."""

from typing import TYPE_CHECKING, Any

from models.sizes import list_models

if TYPE_CHECKING:
    from models.convnext import ConvNeXt, create_model
    from models.layouts import create_layout

__all__ = ["ConvNeXt", "create_layout", "create_model", "list_models"]


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use, so that a wrong setting is found before that takes seconds."""
    if name in ("ConvNeXt", "create_model"):
        from models import convnext

        return getattr(convnext, name)
    if name == "create_layout":
        from models.layouts import create_layout

        return create_layout
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
