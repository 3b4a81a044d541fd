"""The method: masking, FCMAE, its training as a task, reconstructions, recipes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.pretraining.python import PretrainedRun, pretrain

__all__ = ["PretrainedRun", "pretrain"]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: torch takes seconds."""
    if name in __all__:
        from fcmae.pretraining import python

        return getattr(python, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
