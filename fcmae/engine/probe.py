"""How good frozen features are: nearest neighbours and a linear classifier on top of them.

Shapes: N images, D features, K classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Features = tuple[np.ndarray, np.ndarray]
"""Features (N, D) and labels (N,)."""

CHUNK = 256  # images whose neighbours are sought at a time: more similarities would fill the memory


def knn_accuracy(train: Features, val: Features, neighbors: int = 20, temperature: float = 0.07) -> float:
    """Top-1 in percent of a vote of the nearest training images by cosine similarity.

    Each votes for its class with exp(similarity / temperature), as in Wu et al. (arXiv 1805.01978) and DINO.

    Args:
        train: features and labels to look among
        val: features and labels to find
        neighbors: how many vote
        temperature: how much more the nearer count
    """
    known, labels = (torch.from_numpy(array) for array in train)
    sought, truth = (torch.from_numpy(array) for array in val)
    known, right = F.normalize(known.float()), 0
    for part, expected in zip(F.normalize(sought.float()).split(CHUNK), truth.split(CHUNK), strict=True):
        similarity, nearest = (part @ known.T).topk(min(neighbors, len(known)))
        weights = (similarity / temperature).exp()
        scores = torch.zeros(len(part), int(labels.max()) + 1).scatter_add_(1, labels[nearest], weights)
        right += int((scores.argmax(1) == expected).sum())
    return 100 * right / len(truth)


def linear_accuracy(train: Features, val: Features, max_iter: int = 300) -> float:
    """Top-1 in percent of logistic regression on features that are scaled to mean 0 and deviation 1.

    Fitted by L-BFGS with an L2 penalty (scikit-learn's C = 0.1), without augmentation: not the linear probe
    by SGD over augmented images that papers report.

    Args:
        train: features and labels to fit
        val: features and labels to measure on
        max_iter: steps of the solver (L-BFGS)
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=max_iter)).fit(*train)
    return 100 * float(classifier.score(*val))
