"""Images to batches: lists of files, decoding, augmentation and a sampler that can resume."""
