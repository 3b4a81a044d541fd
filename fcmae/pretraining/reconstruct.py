"""Pictures of what a masked autoencoder sees and what it makes of it.

Shapes: N images, C channels, H W pixels.
"""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fcmae.core.device import pick_device
from fcmae.core.errors import UserError
from fcmae.core.settings import read_settings
from fcmae.data.dataset import ImageDataset
from fcmae.data.sources import SourceOptions, Spec, find_opener
from fcmae.data.statistics import settle_statistics
from fcmae.data.transforms import resize_center_crop, to_float
from fcmae.data.validity import split_validity
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.pictures import DPI, GREY, save_figure
from fcmae.engine.run_folder import RunFolder
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.masking import random_mask, unpatchify
from fcmae.pretraining.model import FCMAE

HIDDEN_GREY, WHITE = 0.5, 1.0
SIDE = 1.25  # inches that an image of a grid is wide, with its margin


def reconstruct(
    run_path: Path, images: Spec, out: Path, *, count: int = 8, seed: int = 0, device: str = "auto"
) -> None:
    """Draw how a run's newest checkpoint reconstructs images of a folder.

    Args:
        run_path: folder of a pre-training run
        images: what --data may say
        out: the PNG to write
        count: how many images, evenly spaced over all
        seed: of the masks
        device: auto, cpu, cuda, cuda:N or mps

    Raises:
        UserError: no such run, no checkpoint in it, no image, or a picture that cannot be written
    """
    run = RunFolder(run_path)
    config = read_settings(PretrainConfig, run.config)
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")
    state = Checkpoints(run.checkpoints).newest()
    if state is None:
        raise UserError(f"{run_path} holds no checkpoint yet")
    model = FCMAE(**config.model_options())
    model.load_state_dict(state["model"])
    model.to(pick_device(device))
    options = SourceOptions(
        config.network.in_chans,
        model.image_size[0],
        config.images.value_range,
        no_data=config.images.no_data,
    )
    source = find_opener(images).open_everything(options)
    transform = resize_center_crop(model.image_size, channels=config.network.in_chans)
    pictures = few_images(ImageDataset(source, transform, seed), count)
    statistics = settle_statistics(config.images, config.network.in_chans, run.statistics)
    draw_reconstructions(model, pictures, *statistics, out, torch.Generator().manual_seed(seed))


def few_images(dataset: ImageDataset, count: int) -> Tensor:
    """Return at most `count` images, evenly spaced, through the transform of the data set: uint8 (N, ...)."""
    count = min(count, len(dataset))
    return torch.stack([dataset[0, i * len(dataset) // count].data for i in range(count)])


def draw_reconstructions(
    model: FCMAE,
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    path: Path,
    generator: torch.Generator,
) -> None:
    """Draw original, masked image and reconstruction side by side.

    Visible pixels are pasted into the reconstruction, since they carry no loss and their prediction means
    nothing. With norm_pix_loss, each hidden patch is given its own true mean and standard deviation, which
    the network does not predict: the picture looks better than what it knows. The model is left in evaluation
    mode.

    Args:
        model: what reconstructs
        images: uint8 (N, C, H, W) of the model's image size, or (N, 2 C, H, W), see `fcmae.data.validity`,
            of which white is drawn where no data is
        mean, std: of pixels in 0..1, as in training
        path: the PNG to write
        generator: draws the masks, on the CPU
    """
    device = model.mask_token.device
    images = images.to(device)
    inputs = to_float(images, mean, std)
    images, there = split_validity(images, len(mean))
    mask = random_mask(len(images), model.grid, model.num_visible, generator)
    model.eval()
    with torch.no_grad():
        _, prediction, hidden = model(inputs, mask, there=there)
        restored = model.reconstruct(inputs, prediction.float(), hidden, there)
    scale, shift = (torch.tensor(values, device=device)[:, None, None] for values in (std, mean))
    original = images / 255
    pixels = hidden[..., None].expand(-1, -1, model.patch_size**2)
    is_hidden = unpatchify(pixels, model.patch_size, model.image_size) != 0
    columns = {
        "original": original,
        "masked": torch.where(is_hidden, HIDDEN_GREY, original),
        "reconstruction": restored * scale + shift,
    }
    if there is not None:
        columns = {title: pictures.masked_fill(~there, WHITE) for title, pictures in columns.items()}
    draw_grid(columns, path, across=2)


def draw_grid(columns: dict[str, Tensor], path: Path, *, across: int = 1) -> None:
    """Draw the same images in several forms side by side, one column a form.

    Args:
        columns: title and images (N, C, H, W) of each form, in [0, 1]; what lies outside is clipped.
            One or two channels are drawn grey (the first), more in colour (the first three)
        path: the PNG to write
        across: how many images share a row
    """
    titles, images = list(columns), list(columns.values())
    count, _, height, width = images[0].shape
    rows = -(-count // across)
    figure = Figure(figsize=(across * len(titles) * SIDE, rows * SIDE * height / width + 0.25), dpi=DPI)
    axes = figure.subplots(rows, across * len(titles), squeeze=False)
    for row in axes.flat:
        row.set_axis_off()
    for number in range(count):
        for form, title in enumerate(titles):
            cell = axes[number // across, number % across * len(titles) + form]
            _draw_image(cell, images[form][number])
            if number < across:
                cell.set_title(title, fontsize=9, color=GREY)
    figure.tight_layout(pad=0.3, h_pad=0.3, w_pad=0.3)
    save_figure(figure, path)


def _draw_image(cell: Axes, image: Tensor) -> None:
    """Draw an image (C, H, W) in [0, 1]."""
    pixels = image.detach().float().cpu().clamp(0, 1)
    if len(pixels) < 3:
        cell.imshow(pixels[0].numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        cell.imshow(pixels[:3].permute(1, 2, 0).numpy())
