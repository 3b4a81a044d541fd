"""Images in tar archives, in archives inside those, and in ImageNet's own: found once, read in place."""
