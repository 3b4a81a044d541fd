"""The result of pre-training: the encoder as a safetensors file that says what it is."""

from pathlib import Path

from fcmae.models.card import Card
from fcmae.models.storage import save_weights
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.model import FCMAE


def export_encoder(
    model: FCMAE, config: PretrainConfig, mean: tuple[float, ...], std: tuple[float, ...], path: Path
) -> None:
    """Write the encoder's weights, under the names of `create_model`, with the card of how to use them.

    Args:
        model: what was trained
        config: the run's settings
        mean, std: of pixels in 0..1, by channel
        path: the file to write

    Raises:
        OSError: the disk is full or the folder cannot be written
    """
    network = config.network
    options = {
        "in_chans": network.in_chans,
        "stem_stride": network.stem_stride,
        "depths": network.depths,
        "dims": network.dims,
    }
    card = Card(
        model=config.model,
        options={name: value for name, value in options.items() if value is not None},
        image_size=model.image_size,
        mean=mean,
        std=std,
        value_range=config.images.value_range,
        pretraining={"data": config.data, "epochs": config.epochs, "mask_ratio": config.mask_ratio},
    )
    save_weights(path, model.encoder.state_dict(), card)
