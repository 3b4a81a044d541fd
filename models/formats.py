"""ConvNeXt state dicts of other projects under our names, and ours under theirs.

Ours are the names of the authors' dense state dicts (github.com/facebookresearch/ConvNeXt and ConvNeXt-V2).

Shapes: C channels, k kernel side.
"""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.models.unwrap import find_network

State = dict[str, Tensor]

# Ours against theirs; {i} stage, {j} block, {n} place in a pair of layers, {p} weight or bias.
TIMM_NAMES = {
    "downsample_layers.0.{n}.{p}": "stem.{n}.{p}",
    "downsample_layers.{i}.{n}.{p}": "stages.{i}.downsample.{n}.{p}",
    "stages.{i}.{j}.dwconv.{p}": "stages.{i}.blocks.{j}.conv_dw.{p}",
    "stages.{i}.{j}.norm.{p}": "stages.{i}.blocks.{j}.norm.{p}",
    "stages.{i}.{j}.pwconv{n}.{p}": "stages.{i}.blocks.{j}.mlp.fc{n}.{p}",
    "stages.{i}.{j}.grn.gamma": "stages.{i}.blocks.{j}.mlp.grn.weight",
    "stages.{i}.{j}.grn.beta": "stages.{i}.blocks.{j}.mlp.grn.bias",
    "stages.{i}.{j}.gamma": "stages.{i}.blocks.{j}.gamma",
    "norm.{p}": "head.norm.{p}",
    "head.{p}": "head.fc.{p}",
}
TRANSFORMERS_NAMES = {
    "downsample_layers.0.0.{p}": "embeddings.patch_embeddings.{p}",
    "downsample_layers.0.1.{p}": "embeddings.layernorm.{p}",
    "downsample_layers.{i}.{n}.{p}": "encoder.stages.{i}.downsampling_layer.{n}.{p}",
    "stages.{i}.{j}.dwconv.{p}": "encoder.stages.{i}.layers.{j}.dwconv.{p}",
    "stages.{i}.{j}.norm.{p}": "encoder.stages.{i}.layers.{j}.layernorm.{p}",
    "stages.{i}.{j}.pwconv{n}.{p}": "encoder.stages.{i}.layers.{j}.pwconv{n}.{p}",
    "stages.{i}.{j}.grn.gamma": "encoder.stages.{i}.layers.{j}.grn.weight",
    "stages.{i}.{j}.grn.beta": "encoder.stages.{i}.layers.{j}.grn.bias",
    "stages.{i}.{j}.gamma": "encoder.stages.{i}.layers.{j}.layer_scale_parameter",
    "norm.{p}": "layernorm.{p}",
    "head.{p}": "classifier.{p}",
}
TORCHVISION_NAMES = {  # stages and the downsamplings before them are counted together there
    **{f"downsample_layers.{i}.{{n}}.{{p}}": f"features.{2 * i}.{{n}}.{{p}}" for i in range(4)},
    **{
        f"stages.{i}.{{j}}.{ours}": f"features.{2 * i + 1}.{{j}}.{theirs}"
        for i in range(4)
        for ours, theirs in (
            ("dwconv.{p}", "block.0.{p}"),
            ("norm.{p}", "block.2.{p}"),
            ("pwconv1.{p}", "block.3.{p}"),
            ("pwconv2.{p}", "block.5.{p}"),
            ("gamma", "layer_scale"),
        )
    },
    "norm.{p}": "classifier.0.{p}",
    "head.{p}": "classifier.2.{p}",
}
MMPRETRAIN_NAMES = {
    "stages.{i}.{j}.dwconv.{p}": "stages.{i}.{j}.depthwise_conv.{p}",
    "stages.{i}.{j}.pwconv{n}.{p}": "stages.{i}.{j}.pointwise_conv{n}.{p}",
    "norm.{p}": "norm3.{p}",
    "head.{p}": "head.fc.{p}",
}
LIBRARIES = (TIMM_NAMES, TRANSFORMERS_NAMES, TORCHVISION_NAMES, MMPRETRAIN_NAMES)
UNDERSTOOD = (
    "runs and safetensors files of this project, official ConvNeXt and ConvNeXt V2 files (dense or sparse), "
    "timm's, transformers', torchvision's and mmpretrain's ConvNeXt and ConvNeXt V2"
)


def to_ours(state: State) -> State:
    """Return a ConvNeXt state dict in any form that is understood, under our names and in our shapes.

    Keys that have no place in a ConvNeXt keep their names, so that a later comparison reports them.

    Args:
        state: names and tensors; of an FCMAE checkpoint only the encoder is taken

    Raises:
        UserError: the names are of no form that is understood; the message shows some
    """
    found = find_network(state)
    if found is not None:
        if "stages.0.0.dwconv.weight" in found or "stages.0.0.dwconv.kernel" in found:
            return _from_official(found)
        return _from_library(found)
    some = ", ".join(list(state)[:3]) or "nothing"
    raise UserError(f"not a ConvNeXt: it holds {some}, ... ({len(state)} keys); understood are {UNDERSTOOD}")


def to_timm(state: State, pointwise_convs: bool = False) -> State:
    """Return our state dict for timm's ConvNeXt (timm.models.convnext, V1 or V2).

    Args:
        state: of a ConvNeXt of ours
        pointwise_convs: timm's `conv_mlp`, which is on in its convnextv2_atto, femto, pico and nano: the
            pointwise layers are 1x1 convolutions, (C', C, 1, 1)
    """
    theirs = {}
    for name, tensor in state.items():
        if ".grn." in name:
            tensor = tensor.flatten()
        elif pointwise_convs and ".pwconv" in name and name.endswith(".weight"):
            tensor = tensor[:, :, None, None]
        theirs[_rename(name, TIMM_NAMES)] = tensor
    return theirs


def to_transformers(state: State) -> State:
    """Return our state dict for transformers' ConvNext(V2)ForImageClassification, or its Model with no head.

    Args:
        state: of a ConvNeXt of ours
    """
    prefix = "convnextv2." if any(".grn." in name for name in state) else "convnext."
    theirs = {}
    for name, tensor in state.items():
        inner = "" if name.startswith("head.") or "head.weight" not in state else prefix
        theirs[inner + _rename(name, TRANSFORMERS_NAMES)] = tensor
    return theirs


def _from_official(state: State) -> State:
    """Keep dense names; turn the sparse model's, MinkowskiEngine's, into what the dense network has."""
    ours = {}
    for name, tensor in state.items():
        name = re.sub(r"\.(ln|linear)\.(?=weight$|bias$)", ".", name)
        if name.endswith(".kernel"):
            name, tensor = name.removesuffix("kernel") + "weight", _dense_kernel(tensor, ".dwconv." in name)
        elif name.endswith(".bias"):
            tensor = tensor.flatten()
        elif ".grn." in name:
            tensor = tensor.reshape(1, 1, 1, tensor.numel())
        ours[name] = tensor
    return ours


def _dense_kernel(kernel: Tensor, depthwise: bool) -> Tensor:
    """Turn a MinkowskiEngine kernel, in whose positions x varies slowest, into a dense convolution's weight.

    Args:
        kernel: (k * k, C) of a depthwise convolution, to (C, 1, k, k); (k * k, C, C') of a full one, or
            (C, C') where k is 1, to (C', C, k, k). Other shapes stay wrong, for the comparison to report
        depthwise: which of the two
    """
    if kernel.ndim == 2:
        kernel = kernel[:, None] if depthwise else kernel[None]
    side = math.isqrt(kernel.shape[0]) if kernel.ndim == 3 else 0
    if side == 0 or side * side != kernel.shape[0]:
        return kernel
    dense: Tensor = kernel.unflatten(0, (side, side)).permute(3, 2, 1, 0)
    return dense.contiguous()


def _from_library(state: State) -> State:
    """Rename the tensors of timm, transformers, torchvision or mmpretrain, and give them our shapes."""
    names = {theirs: ours for table in LIBRARIES for ours, theirs in table.items()}
    ours = {}
    for name, tensor in state.items():
        name = _rename(re.sub(r"^(stem|stages)_", r"\1.", name), names)  # timm's features_only
        if ".grn." in name:
            tensor = tensor.reshape(1, 1, 1, tensor.numel())
        elif ".pwconv" in name and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)
        elif name.endswith(".gamma"):
            tensor = tensor.flatten()
        ours[name] = tensor
    return ours


def _rename(name: str, table: Mapping[str, str]) -> str:
    """Return the name by the first row of the table that it matches, or as it is."""
    for pattern, replacement in table.items():
        match = re.fullmatch(_as_regex(pattern), name)
        if match is not None:
            return replacement.format(**match.groupdict())
    return name


def _as_regex(pattern: str) -> str:
    """Turn `stages.{i}.norm.{p}` into a regular expression with groups i and p."""
    escaped = pattern.replace(".", r"\.")
    return re.sub(r"\{(\w)\}", lambda field: rf"(?P<{field[1]}>\w+)", escaped)
