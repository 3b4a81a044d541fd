"""Watching a pre-training by labels that it never sees: k-NN on the encoder's frozen features.

Shapes: B batch, C channels, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.data.config import CROP_PCT, VAL_FRACTION
from fcmae.data.evaluation import EvaluationReader, micro_batch_size
from fcmae.data.features import extract_features, knn_accuracy, require_classes
from fcmae.data.loader import choose_workers
from fcmae.data.sources import SourceOptions, open_splits
from fcmae.models.layouts.dense import DenseLayout
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.model import FCMAE

MOST_IMAGES = 10_000  # of each split: enough to watch by, and quick


class KnnProbe:
    """k-NN accuracy of an encoder on the labelled images of `config.probe_data`.

    Args:
        config: of the run, with `probe_data`
        image_size: (height, width)
        mean, std: of pixels in 0..1, by channel
        device: where to compute

    Raises:
        UserError: the images cannot be read
    """

    def __init__(
        self,
        config: PretrainConfig,
        image_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        assert config.probe_data is not None
        workers = choose_workers(device, config.images.workers)
        batch_size = micro_batch_size(config.batch_size, config.optim.accumulation_steps)
        self.reader = EvaluationReader(
            image_size,
            CROP_PCT,
            mean,
            std,
            batch_size,
            workers,
            device,
            gaps=config.images.no_data is not None,
        )
        options = SourceOptions(
            len(mean),
            image_size[0],
            config.images.value_range,
            config.data_root,
            VAL_FRACTION,
            seed=0,
            no_data=config.images.no_data,
        )
        self.splits = open_splits(config.probe_data, options)
        require_classes(self.splits[0])

    def accuracy(self, model: FCMAE) -> float:
        """Return top-1 in percent, the same in every process of the run; all of them have to call it.

        Features are pooled and normalised as in front of a head, with a norm that has nothing to learn.

        Args:
            model: left in evaluation mode
        """
        model.eval()

        def encode(images: Tensor) -> Tensor:
            pooled = model.encoder.forward_features(images, DenseLayout()).float().mean((2, 3))
            return F.layer_norm(pooled, pooled.shape[-1:], eps=1e-6)

        train, val = (extract_features(encode, split, self.reader, MOST_IMAGES) for split in self.splits)
        return knn_accuracy(train, val)
