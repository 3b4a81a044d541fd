"""What is known of weights: one card, in the header of their file, written and read here without torch.

Weights are a file, or a folder that keeps them under one of the names of `RESULTS`. What torch.save wrote has
no header: a file in such a folder's `checkpoints/` is of the same training, and its card is the folder's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fcmae.core.errors import UserError
from fcmae.models.names import fetch, is_name
from fcmae.models.sizes import Size, find_size

CLASSIFIER = "model.safetensors"  # fine-tuned, or exported
ENCODER = "encoder.safetensors"  # pre-trained
RESULTS = (CLASSIFIER, ENCODER)  # in the order in which a folder's are looked for
CHECKPOINTS = "checkpoints"
SHARDS = "shards"  # where a checkpoint says which folder and files beside it hold its sharded tensors

VERSION = "1"
FORMAT = f"fcmae.weights.{VERSION}"


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that is known of weights beside their tensors; what nobody has told is None.

    Args:
        model: name of `list_models()`: the published size, or any of its generation where `options` give
            depths and dims; or timm:NAME
        options: further arguments of `create_model`: in_chans, stem_stride, and depths and dims of a size
            that is not published
        class_names: of the head's rows
        image_size: (height, width) in training
        mean, std: of pixels in 0..1, by channel
        crop_pct: fraction of the short side that evaluation crops
        value_range: values of 16-bit and float images that become 0 and 1
        no_data: stored values of images that are none: a number, nan or mask
        metrics: what was measured of these weights, by name
        labels: what the head says where it is not one class of an image: labels or numbers
        averaged: whether they are a moving average of the weights in training, and not the last step's
        pretraining: what made an encoder: data, epochs, mask_ratio
    """

    model: str
    options: Mapping[str, Any]
    class_names: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    value_range: tuple[float, float] | None = None
    no_data: Literal["nan", "mask"] | float | None = None
    metrics: Mapping[str, float] | None = None
    labels: str | None = None
    averaged: bool | None = None
    pretraining: Mapping[str, Any] | None = None

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return int(self.options.get("in_chans", 3))

    @property
    def size(self) -> Size:
        """Blocks and widths, published or not, of a network of ours."""
        published = find_size(self.model)
        return Size(
            self.options.get("depths", published.depths),
            self.options.get("dims", published.dims),
            published.layer_scale,
        )

    def to_metadata(self) -> dict[str, str]:
        """Return what is known as a header holds it: JSON by name, always in the same order."""
        known = {field.name: getattr(self, field.name) for field in fields(Card)}
        said = {"format": FORMAT} | {name: value for name, value in known.items() if value is not None}
        return {name: json.dumps(value) for name, value in said.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Card | None":
        """Return the card that a header holds, or None where the header is not ours.

        Raises:
            UserError: the header is damaged, or of a newer version of this project
        """
        if not metadata.get("format", "").startswith('"fcmae.'):
            return None
        try:
            said = {name: _to_tuples(json.loads(text)) for name, text in metadata.items()}
            version = said["format"].rpartition(".")[2]
            if version != VERSION:
                raise UserError(
                    f"has format {said['format']}, from a newer version of this project: update it"
                )
            return cls(**{field.name: said[field.name] for field in fields(Card) if field.name in said})
        except (json.JSONDecodeError, AttributeError, TypeError) as error:
            raise UserError(f"has a damaged header ({error})") from error


def read_card(path: Path) -> Card | None:
    """Return what weights say about themselves, or None for those of others.

    Args:
        path: a folder or a file, as for `find_weights`

    Raises:
        UserError: absent, damaged or from a newer version
    """
    from safetensors import SafetensorError, safe_open

    file, _ = find_weights(path)
    if file.suffix != ".safetensors":
        folder = file.absolute().parent
        result = find_result(folder.parent) if folder.name == CHECKPOINTS else None
        return None if result is None else read_card(result)
    try:
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from error
    try:
        return Card.from_metadata(metadata)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def find_weights(path: Path) -> tuple[Path, str | None]:
    """Return the file of weights, and which of its networks is chosen, or None.

    Args:
        path: a file; a folder that keeps its weights under one of the names of `RESULTS`; a name that
            `fcmae.models.names.fetch` knows; or a file with #NETWORK behind it, to choose one of several

    Raises:
        UserError: neither a file, nor a folder with weights, nor a name
    """
    place, mark, choice = str(path).rpartition("#")
    if mark and not path.exists():
        return find_weights(Path(place))[0], choice
    if is_name(path):
        return fetch(str(path)), None
    if path.is_dir():
        found = find_result(path)
        if found is None:
            raise UserError(
                f"{path}: holds neither {' nor '.join(RESULTS)}, which a run writes after its "
                "first epochs: name a file of weights"
            )
        return found, None
    if not path.is_file():
        raise UserError(
            f"{path}: no such weights; give a run folder, a file of weights, or a name such as "
            "timm:convnextv2_atto.fcmae, hf:OWNER/REPOSITORY or official:convnextv2_atto_fcmae"
        )
    return path, None


def find_result(folder: Path) -> Path | None:
    """Return the weights that a training has written, or None where it has not got there."""
    return next((folder / name for name in RESULTS if (folder / name).is_file()), None)


def _to_tuples(value: Any) -> Any:
    """Return a JSON value with tuples for lists, at any depth: a card does not change."""
    if isinstance(value, list):
        return tuple(_to_tuples(each) for each in value)
    if isinstance(value, dict):
        return {name: _to_tuples(each) for name, each in value.items()}
    return value
