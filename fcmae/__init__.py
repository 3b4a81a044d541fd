"""The method: masking, the masked autoencoder, pre-training and reconstruction."""

from fcmae.model import FCMAE

__all__ = ["FCMAE"]
