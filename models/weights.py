"""Trained weights from anywhere into a ConvNeXt of ours: architecture recovered, heads and stems fitted.

Shapes: C channels, k kernel side.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.models.card import Card
from fcmae.models.convnext import ConvNeXt, create_model
from fcmae.models.formats import State, to_ours
from fcmae.models.sizes import LAYER_SCALE, Size, find_size, name_of
from fcmae.models.storage import read_tensors

logger = logging.getLogger(__name__)

NORM_AND_HEAD = ("norm.", "head.")


@dataclass(frozen=True)
class Weights:
    """A ConvNeXt's weights, and all that is known about them.

    Args:
        state: tensors under our names, on the CPU; without norm and head where it is a bare encoder
        card: model and options as the tensors say them, and the rest where the file says it
    """

    state: State
    card: Card

    @property
    def num_classes(self) -> int:
        """Rows of the head, 0 without one."""
        return self.state["head.weight"].shape[0] if "head.weight" in self.state else 0


def load_weights(path: str | Path) -> Weights:
    """Read a ConvNeXt's weights, whoever wrote them; code in a file is never run.

    Args:
        path: a run folder or a folder with model.safetensors; a file, safetensors or what torch.save wrote;
            or a name (`fcmae.models.names.fetch`). Understood are our runs, safetensors and checkpoints, the
            official files (dense names and the sparse FCMAE model's), timm's, transformers', torchvision's
            and mmpretrain's ConvNeXt V1 and V2, in the checkpoints of any trainer; FILE#NAME chooses one of
            several networks

    Raises:
        UserError: the file is absent, damaged or none of these, or its tensors do not make up a ConvNeXt;
            the message lists missing, unexpected and mis-shaped keys
    """
    path = Path(path)
    tensors, card = read_tensors(path)
    try:
        return _describe(to_ours(tensors), card)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def create_model_from(
    weights: Weights,
    *,
    num_classes: int | None = None,
    class_rows: Sequence[int | None] | None = None,
    **options: Any,
) -> ConvNeXt:
    """Return the network that the weights belong to, with them in it.

    Args:
        num_classes: rows of the head, by default as many as the weights have
        class_rows: see `load_into`
        **options: of `create_model`, such as features_only; the stem is adapted to in_chans

    Raises:
        UserError: the weights do not fit the options
    """
    num_classes = weights.num_classes if num_classes is None else num_classes
    model = create_model(weights.card.model, num_classes=num_classes, **{**weights.card.options, **options})
    load_into(model, weights, class_rows=class_rows)
    return model


def load_into(model: ConvNeXt, weights: Weights, *, class_rows: Sequence[int | None] | None = None) -> None:
    """Load weights into a network of the same architecture; log what of the head stays as initialised.

    A head of another size keeps its initial weights, and so does the norm before it where the weights are a
    bare encoder. A stem for other image channels is fitted by `adapt_input_channels`.

    Args:
        class_rows: for each class of the network, the row of the weights' head that it takes over, or None
            for one that keeps its initial weights (`match_classes` finds them by name)

    Raises:
        UserError: another architecture, or class rows that the heads do not have
    """
    beyond = [
        f"{kind}.{stage}."
        for kind in ("downsample_layers", "stages")
        for stage in range(len(model.stages), 4)
    ]  # of a network that gives earlier maps only
    left_out = (*NORM_AND_HEAD, *beyond)
    state = {name: tensor for name, tensor in weights.state.items() if not name.startswith(left_out)}
    stem = "downsample_layers.0.0.weight"
    state[stem] = adapt_input_channels(state[stem], model.in_chans)
    state |= _fit_head(model, weights, class_rows)
    try:
        compare_states(state, model.state_dict())
    except ValueError as error:
        card = weights.card
        described = ", ".join(f"{name} {value}" for name, value in card.options.items())
        raise UserError(f"weights of {card.model} ({described}) in another network: {error}") from error
    model.load_state_dict(state)


def match_classes(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Return for each target class the place of the source class of that name, or None."""
    rows = {name: row for row, name in enumerate(source)}
    return [rows.get(name) for name in target]


def adapt_input_channels(weight: Tensor, in_chans: int) -> Tensor:
    """Return a stem's weight for images of other channels, as timm does it (timm.models.adapt_input_conv).

    One channel takes the sum of all; otherwise the channels are repeated in order and scaled by C / in_chans,
    so that an image with equal channels gives the same response where they repeat a whole number of times.

    Args:
        weight: (C', C, k, k)
        in_chans: channels of the images

    Returns:
        (C', in_chans, k, k)
    """
    channels = weight.shape[1]
    if in_chans == 1 and channels > 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.repeat(1, math.ceil(in_chans / channels), 1, 1)[:, :in_chans]
    return repeated * (channels / in_chans)


def compare_states(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state dict whose names or shapes are not those that are expected.

    Raises:
        UserError: the first few missing, unexpected and mis-shaped keys, and how many there are of each
    """
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "mis-shaped": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    lists = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if lines := "; ".join(lists):
        raise UserError(f"keys do not fit: {lines}")


def _describe(state: State, card: Card | None) -> Weights:
    """Return the weights with their card, whose architecture is what the tensors themselves tell.

    Args:
        state: under our names
        card: of their file, where it has one

    Raises:
        UserError: they do not make up a ConvNeXt, or the card does not belong to them
    """
    model, options = _find_architecture(state)
    if "head.weight" in state:
        _tensor(state, "head.weight", 2)
    found = Card(model=model, options=options)
    card = found if card is None else replace(card, model=model, options=options)
    weights = Weights(state, card)
    with torch.device("meta"):
        bare = not any(name.startswith(NORM_AND_HEAD) for name in state)
        network = create_model(model, num_classes=weights.num_classes, features_only=bare, **options)
    compare_states(state, network.state_dict())
    if card.class_names is not None and len(card.class_names) != weights.num_classes:
        raise UserError(
            f"the metadata names {len(card.class_names)} classes, the head has {weights.num_classes}"
        )
    return weights


def _find_architecture(state: State) -> tuple[str, dict[str, Any]]:
    """Return the name and the options with which `create_model` makes the network of these tensors."""
    stem = _tensor(state, "downsample_layers.0.0.weight", 4)
    convolutions = [stem, *(_tensor(state, f"downsample_layers.{i}.1.weight", 4) for i in (1, 2, 3))]
    dims = [convolution.shape[0] for convolution in convolutions]
    blocks = {match[0] for name in state if (match := re.match(r"stages\.\d+\.\d+\.", name))}
    depths = [sum(block.startswith(f"stages.{i}.") for block in blocks) for i in range(4)]
    layer_scale = None if any(".grn." in name for name in state) else LAYER_SCALE
    size = Size(tuple(depths), tuple(dims), layer_scale)  # type: ignore[arg-type]
    name, options = name_of(size), {"in_chans": stem.shape[1], "stem_stride": stem.shape[2]}
    if find_size(name) == size:
        return name, options
    return name, options | {"depths": size.depths, "dims": size.dims}


def _tensor(state: State, name: str, ndim: int) -> Tensor:
    """Return the tensor of that name, which has to be there and to have so many dimensions."""
    if name not in state:
        raise UserError(f"not a whole ConvNeXt: {name} is missing")
    if state[name].ndim != ndim:
        raise UserError(f"{name} has {state[name].ndim} dimensions instead of {ndim}")
    return state[name]


def _fit_head(model: ConvNeXt, weights: Weights, class_rows: Sequence[int | None] | None) -> State:
    """Return the norm and head that the network needs, as trained where they fit and else as initialised."""
    initial = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(NORM_AND_HEAD)}
    fitted = {name: weights.state.get(name, tensor) for name, tensor in initial.items()}
    if class_rows is not None:
        fitted["head.weight"], fitted["head.bias"] = _take_rows(model, weights, class_rows)
        taken = sum(row is not None for row in class_rows)
        logger.warning("head: %d of %d classes take trained rows over", taken, len(class_rows))
    elif "head.weight" in initial and weights.num_classes != model.num_classes:
        fitted |= {name: initial[name] for name in ("head.weight", "head.bias")}
        found = f"one of {weights.num_classes}" if weights.num_classes else "none"
        logger.warning("head: initialised for %d classes, the weights have %s", model.num_classes, found)
    return fitted


def _take_rows(model: ConvNeXt, weights: Weights, class_rows: Sequence[int | None]) -> tuple[Tensor, Tensor]:
    """Return weight (classes, C) and bias (classes,) of a head with rows of the trained one."""
    if len(class_rows) != model.num_classes:
        raise UserError(f"class_rows has {len(class_rows)} rows for a head of {model.num_classes} classes")
    wrong = [row for row in class_rows if row is not None and not 0 <= row < weights.num_classes]
    if wrong:
        raise UserError(f"class_rows wants row {wrong[0]}, the weights have {weights.num_classes} classes")
    places = [place for place, row in enumerate(class_rows) if row is not None]
    rows = [row for row in class_rows if row is not None]
    state = model.state_dict()
    weight, bias = state["head.weight"].clone(), state["head.bias"].clone()
    if rows:
        weight[places] = weights.state["head.weight"][rows].to(weight)
        bias[places] = weights.state["head.bias"][rows].to(bias)
    return weight, bias
