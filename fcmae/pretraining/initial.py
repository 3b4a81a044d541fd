"""Going on from trained weights: what they put into a masked autoencoder, and how gently it then learns."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.optim import parameter_groups
from fcmae.engine.run_folder import RunFolder
from fcmae.models.storage import read_content
from fcmae.models.weights import load_into, load_weights
from fcmae.pretraining.model import FCMAE

logger = logging.getLogger(__name__)

WARMUP_FRACTION = 0.1  # of a run, in which a decoder that starts anew learns alone


def load_initial(model: FCMAE, init: str) -> bool:
    """Put trained weights into a masked autoencoder; a stem for other channels is adapted.

    Args:
        model: whose encoder is a ConvNeXt
        init: as for `load_weights`; of a pre-training run, the newest checkpoint's decoder is taken too

    Returns:
        whether the decoder's weights were there and fit; else it stays as initialised

    Raises:
        UserError: no such weights, or of another architecture
    """
    path = Path(init).expanduser()
    weights = load_weights(path)
    try:
        load_into(model.encoder, weights)
    except ValueError as error:
        raise UserError(
            f"--init {init}: {error}; leave --model and --network.* out to take them from the weights"
        ) from error
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    decoder = find_decoder(_whole_content(path), own)
    if decoder is None:
        logger.warning("--init %s: the decoder starts anew, for the weights have none like it", init)
        return False
    model.load_state_dict(decoder, strict=False)
    return True


def find_decoder(content: Any, like: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the decoder that a checkpoint holds beside an encoder, or None where it has none of that shape.

    Args:
        content: what a file holds: dicts of tensors, at any depth, with any prefix
        like: names and tensors of the decoder that is sought
    """
    if not isinstance(content, Mapping):
        return None
    prefixes = [
        name.removesuffix("mask_token")
        for name in content
        if isinstance(name, str) and name.endswith("mask_token")
    ]
    for prefix in prefixes:
        found = {name: content.get(prefix + name) for name in like}
        if all(
            isinstance(tensor, Tensor) and tensor.numel() == like[name].numel()
            for name, tensor in found.items()
        ):
            return {name: tensor.reshape(like[name].shape) for name, tensor in found.items()}  # type: ignore[union-attr]
    within = (find_decoder(value, like) for value in content.values())
    return next((decoder for decoder in within if decoder is not None), None)


def gentle_groups(
    model: FCMAE, weight_decay: float, *, stage_decay: float, first_step: int
) -> list[dict[str, Any]]:
    """Return groups for AdamW in which the encoder starts to learn later, and its first stages more slowly.

    Args:
        model: whose encoder is a ConvNeXt
        weight_decay: of matrices; norms and biases have none
        stage_decay: factor on the learning rate from a stage to the one before it; the last has the full rate
        first_step: optimiser step, from 0, from which on the encoder learns
    """
    stages = len(model.encoder.stages)
    groups = []
    for group in parameter_groups(model, weight_decay):
        by_stage: dict[int | None, list[Any]] = {}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for parameter in group["params"]:
            by_stage.setdefault(_stage(names[id(parameter)]), []).append(parameter)
        for stage, parameters in by_stage.items():
            own: dict[str, Any] = {"params": parameters, "weight_decay": group["weight_decay"]}
            if stage is not None:
                own |= {"lr_scale": stage_decay ** (stages - 1 - stage), "first_step": first_step}
            groups.append(own)
    return groups


def _stage(name: str) -> int | None:
    """Return the stage of an encoder's parameter, that of a downsampling being what follows, else None."""
    room, _, rest = name.partition(".")
    return int(rest.split(".")[1]) if room == "encoder" else None


def _whole_content(path: Path) -> Any:
    """Return all that a file of weights holds; of a pre-training run, its newest checkpoint."""
    checkpoints = Checkpoints(RunFolder(path).checkpoints)
    return checkpoints.newest() if checkpoints.files() else read_content(path)
