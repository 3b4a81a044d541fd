"""The use: training on labels, and measuring, predicting and exporting what came of it."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.finetune.commands.embed import embed
    from fcmae.finetune.commands.evaluate import evaluate
    from fcmae.finetune.commands.export import export
    from fcmae.finetune.commands.predict import predict
    from fcmae.finetune.commands.probe import probe
    from fcmae.finetune.python import FinetunedRun, finetune

__all__ = ["FinetunedRun", "embed", "evaluate", "export", "finetune", "predict", "probe"]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use: torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "python" if name in ("FinetunedRun", "finetune") else f"commands.{name}"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
