"""The result of pre-training: the encoder as a safetensors file that says what it is."""

from pathlib import Path

from fcmae.core.files import write_safetensors
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.model import FCMAE


def export_encoder(
    model: FCMAE, config: PretrainConfig, mean: tuple[float, ...], std: tuple[float, ...], path: Path
) -> None:
    """Write the encoder's weights, under the names of `create_model`, with what is needed to use them.

    The metadata (safetensors allows strings only) holds JSON values: `model` and `options` are the arguments
    of `create_model`, `image_size` is (height, width), `mean` and `std` are of pixels in 0..1, `value_range`
    are the values of 16-bit and float images that became 0 and 1, null for all that there can be.
    """
    options = {
        "in_chans": config.network.in_chans,
        "stem_stride": config.network.stem_stride,
        "depths": config.network.depths,
        "dims": config.network.dims,
    }
    metadata = {
        "format": "fcmae.encoder.1",
        "model": config.model,
        "options": {name: value for name, value in options.items() if value is not None},
        "image_size": model.image_size,
        "mean": mean,
        "std": std,
        "value_range": config.images.value_range,
        "pretraining": {"data": config.data, "epochs": config.epochs, "mask_ratio": config.mask_ratio},
    }
    write_safetensors(path, model.encoder.state_dict(), metadata)
