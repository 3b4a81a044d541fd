"""The method: masking, the masked autoencoder, pre-training and reconstruction."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.model import FCMAE

__all__ = ["FCMAE"]


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use, so that a wrong setting is found before that takes seconds."""
    if name == "FCMAE":
        from fcmae.model import FCMAE

        return FCMAE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
