"""Images in arrays and slides, read a window at a time."""
