"""The use: training on labels, and measuring, predicting and exporting what came of it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.finetune.python import FinetunedRun, finetune

__all__ = ["FinetunedRun", "finetune"]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: torch takes seconds."""
    if name in __all__:
        from fcmae.finetune import python

        return getattr(python, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
