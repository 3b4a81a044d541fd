"""The ConvNeXt in a checkpoint of any trainer: which of its dicts holds it, and behind which prefix.

A network is known by the weight of its first depthwise convolution, whose name ends alike in whatever it was
wrapped (torch.compile, DDP, Lightning, a teacher beside its student): prefixes need no list.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fcmae.core.errors import UserError

logger = logging.getLogger(__name__)

OFFICIAL = r"(downsample_layers|stages|norm|head)\."
# The first depthwise convolution by library, what the network's own names begin with, and the head's names
# where it stands beside a network with a prefix.
FORMS = {
    "stages.0.0.dwconv.weight": (OFFICIAL, None),  # the authors' dense networks, and ours
    "stages.0.0.dwconv.kernel": (OFFICIAL, None),  # the authors' sparse encoder
    "stages.0.0.depthwise_conv.weight": (
        r"(downsample_layers|stages|norm3|head)\.",
        r"head\.fc\.",
    ),  # mmpretrain
    "stages.0.blocks.0.conv_dw.weight": (r"(stem|stages|head)\.", None),  # timm
    "stages_0.blocks.0.conv_dw.weight": (r"(stem_\d|stages_\d)\.", None),  # timm with features_only
    "encoder.stages.0.layers.0.dwconv.weight": (
        r"(embeddings|encoder|layernorm|classifier)\.",
        r"classifier\.",
    ),  # transformers
    "features.1.0.block.0.weight": (r"(features|classifier)\.", None),  # torchvision
}
AVERAGE = re.compile(r"(^|[._])(ema|averaged|shadow)([._]|$)", re.IGNORECASE)
DEPTH = 3  # of dicts within dicts


@dataclass(frozen=True)
class Found:
    """A ConvNeXt within a checkpoint.

    Args:
        name: what tells it from the others, such as `state_dict_ema` or `teacher.backbone`; may be empty
        state: its tensors, without the prefix
        beside: how many tensors of the same dict are not its own
    """

    name: str
    state: dict[str, Tensor]
    beside: int

    @property
    def is_average(self) -> bool:
        """Whether its name says that it is a moving average of weights."""
        return AVERAGE.search(self.name) is not None


def find_network(content: Mapping[Any, Any], choice: str | None = None) -> dict[str, Tensor] | None:
    """Return the tensors of the ConvNeXt that a checkpoint holds, under its library's names, or None.

    Of a network and its moving average the average is taken, as by timm's `load_checkpoint`. What was taken
    is logged where the checkpoint holds more.

    Args:
        content: names to tensors, to further dicts of them, or to anything else, which is passed over
        choice: the name of the one to take, or any dotted beginning of it that tells it from the others

    Raises:
        UserError: it holds several of which none is chosen, or not the one that is chosen; names them
    """
    found = list(_search(content, (), DEPTH))
    names = ", ".join(network.name or "the file itself" for network in found)
    if choice is not None:
        chosen = [network for network in found if f"{network.name}.".startswith(f"{choice}.")]
        if not chosen:
            raise UserError(f"holds no network {choice!r}; it holds {names or 'none that is a ConvNeXt'}")
        found = chosen
    averages = [network for network in found if network.is_average]
    if len(found) == 2 and len(averages) == 1:
        logger.info("of %s, the average is taken: %s", names, averages[0].name)
        found = averages
    if len(found) > 1:
        raise UserError(f"holds {len(found)} networks ({names}): choose one, as in FILE#{found[0].name}")
    if not found:
        return None
    (network,) = found
    if network.beside:
        taken = network.name or f"its {len(network.state)} tensors"
        logger.info(
            "of a checkpoint, the network %s is taken; %d tensors beside it are not", taken, network.beside
        )
    return network.state


def _search(content: Mapping[Any, Any], path: tuple[str, ...], depth: int) -> Iterator[Found]:
    """Yield the networks of a dict, and of the dicts within it to a depth."""
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    for prefix, convolution in _prefixes(tensors):
        own, head = FORMS[convolution]
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix) and re.match(own, name.removeprefix(prefix))
        }
        if prefix and head:
            state |= {name: tensor for name, tensor in tensors.items() if re.match(head, name)}
        name = ".".join((*path, prefix.removesuffix("."))).strip(".")
        yield Found(name, state, len(tensors) - len(state))
    if depth:
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Mapping):
                yield from _search(value, (*path, key), depth - 1)


def _prefixes(tensors: Mapping[Any, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield what stands before the first convolution of each network, and the convolution's own name."""
    for name in tensors:
        for convolution in FORMS:
            if isinstance(name, str) and (name == convolution or name.endswith(f".{convolution}")):
                yield name.removesuffix(convolution), convolution
