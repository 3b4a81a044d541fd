"""The method: masking, the masked autoencoder, pre-training and reconstruction."""
