"""What an encoder is worth before it is fine-tuned: k-NN, a linear classifier, feature collapse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fcmae.core.device import pick_device
from fcmae.core.distributed import current_world
from fcmae.core.files import AnyPath
from fcmae.data.features import Features, extract_features, knn_accuracy
from fcmae.data.sources import SourceOptions, Spec, open_splits
from fcmae.engine.pictures import BLUE, GREY, save_figure
from fcmae.engine.precision import autocast
from fcmae.finetune.trained import open_network
from fcmae.models.collapse import collapse_by_block
from fcmae.models.convnext import ConvNeXt

COLLAPSE_IMAGES = 64


def probe(
    weights: AnyPath,
    data: Spec,
    *,
    collapse: AnyPath | None = None,
    data_root: str = "data",
    val_fraction: float = 0.2,
    limit: int | None = None,
    neighbors: int = 20,
    image_size: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    precision: str = "float32",
    device: str = "auto",
) -> dict[str, Any]:
    """Measure frozen features: top-1 in percent of k-NN and of a linear classifier, and collapse.

    Args:
        weights: run folder or file, see `open_network`; a head is not used
        data: see `FinetuneConfig.data`
        collapse: PNG of the distance of channels by block
        data_root, val_fraction: see `FinetuneConfig`
        limit: about how many training images to use at most
        neighbors: of k-NN
        image_size: side in pixels, by default that of the training
        batch_size: images of one batch
        workers: processes that read, by default chosen for the device
        precision: float32, bf16 or fp16, of the features
        device: see `pick_device`

    Returns:
        `knn`, `linear`, `train_images` and `val_images`; `collapse` by block, of our networks

    Raises:
        UserError: weights or data that cannot be read
    """
    at = pick_device(device)
    network = open_network(Path(weights), at, head=False, image_size=image_size)
    reader = network.reader(batch_size, workers, at)
    card = network.card
    options = SourceOptions(
        card.in_chans, card.image_size[0], card.value_range, data_root, val_fraction, no_data=card.no_data
    )
    splits = open_splits(data, options)
    with autocast(precision, at):
        train = extract_features(network.model, splits[0], reader, limit)
        val = extract_features(network.model, splits[1], reader)
    metrics: dict[str, Any] = {
        "knn": knn_accuracy(train, val, neighbors),
        "linear": linear_accuracy(train, val),
        "train_images": len(train[1]),
        "val_images": len(val[1]),
    }
    if isinstance(network.model, ConvNeXt):
        few = replace(reader, batch_size=COLLAPSE_IMAGES, workers=0)
        batch = next(few.read_once(splits[1].source))
        metrics["collapse"] = collapse_by_block(network.model, batch.keep(batch.images))
        if collapse is not None and current_world().is_rank_zero:
            save_figure(draw_collapse(metrics["collapse"]), Path(collapse))
    return metrics


def linear_accuracy(train: Features, val: Features, max_iter: int = 300) -> float:
    """Return top-1 in percent of logistic regression on features of mean 0 and standard deviation 1.

    Fitted by L-BFGS with an L2 penalty (scikit-learn's C = 0.1), without augmentation: not the linear probe
    by SGD over augmented images that papers report.

    Args:
        train: features and labels to fit
        val: features and labels to measure on
        max_iter: steps of the solver (L-BFGS)
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=max_iter)).fit(*train)
    return 100 * float(classifier.score(*val))


def draw_collapse(distances: dict[str, float]) -> Figure:
    """Draw the distance of each block, in the order of the network, as a line."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    places = range(len(distances))
    axes.plot(places, list(distances.values()), color=BLUE, marker="o", markersize=4, linewidth=1.8)
    axes.set_ylim(0, 0.6)
    step = -(-len(distances) // 18)
    axes.set_xticks(list(places)[::step], list(distances)[::step], rotation=45, ha="right", fontsize=8)
    axes.set_title(
        "distance of channels, mean of (1 - cos) / 2: near 0 they have collapsed", loc="left", fontsize=10
    )
    axes.tick_params(colors=GREY, length=3)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
