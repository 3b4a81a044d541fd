"""Operations that are worth more than a line of PyTorch, one to a file, each with its own gradient."""
