"""How good frozen features are: nearest neighbours and a linear classifier on top of them.

Shapes: N images, D features.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Features = tuple[np.ndarray, np.ndarray]
"""Features (N, D) and labels (N,)."""


def knn_accuracy(train: Features, val: Features, neighbors: int = 20) -> float:
    """Top-1 in percent of the nearest training images by cosine similarity, the nearer the heavier.

    After Wu et al. (arXiv 1805.01978), with weights 1 / distance.

    Args:
        train: features and labels to look among
        val: features and labels to find
        neighbors: how many vote
    """
    neighbors = min(neighbors, len(train[1]))
    classifier = KNeighborsClassifier(neighbors, metric="cosine", weights="distance").fit(*train)
    return 100 * float(classifier.score(*val))


def linear_accuracy(train: Features, val: Features, max_iter: int = 300) -> float:
    """Top-1 in percent of logistic regression on features that are scaled to mean 0 and deviation 1.

    Args:
        train: features and labels to fit
        val: features and labels to measure on
        max_iter: steps of the solver (L-BFGS)
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=max_iter)).fit(*train)
    return 100 * float(classifier.score(*val))
