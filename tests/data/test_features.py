"""Frozen features, measured: the vote of the neighbours is that of the definition."""

import math

import numpy as np
import pytest

from fcmae.data.features import CHUNK, Features, knn_accuracy


def make_features(count: int, seed: int) -> Features:
    """Features of four classes that overlap, of very different lengths."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    directions = np.eye(8)[labels] + 0.6 * generator.normal(size=(count, 8))
    return (directions * generator.uniform(0.1, 10, (count, 1))).astype(np.float32), labels


def vote(train: Features, image: np.ndarray, neighbors: int) -> int:
    """One image, by the definition."""
    units = train[0] / np.linalg.norm(train[0], axis=1, keepdims=True)
    similarities = units @ image / np.linalg.norm(image)
    nearest = sorted(zip(similarities.tolist(), train[1].tolist(), strict=True), reverse=True)[:neighbors]
    votes = dict.fromkeys(range(4), 0.0)
    for similarity, label in nearest:
        votes[label] += math.exp(similarity / 0.07)
    return max(votes, key=lambda label: votes[label])


@pytest.mark.parametrize(("images", "neighbors"), [(90, 20), (90, 1), (12, 20)])
def test_neighbours_vote_by_their_similarity(images: int, neighbors: int) -> None:
    train, val = make_features(images, 0), make_features(CHUNK + 9, 1)
    found = [vote(train, image, neighbors) for image in val[0]]
    expected = 100 * float(np.mean(np.array(found) == val[1]))
    assert 40 < expected < 95
    assert knn_accuracy(train, val, neighbors) == pytest.approx(expected)


@pytest.mark.parametrize(("near", "far", "winner"), [(2.0, 40.0, 1), (2.0, 8.0, 0)])
def test_a_near_neighbour_outweighs_three_that_are_much_further(near: float, far: float, winner: int) -> None:
    angles = np.radians([near, far, far, far])  # of one neighbour of class 1 and three of class 0
    train = np.stack([np.cos(angles), np.sin(angles)], 1), np.array([1, 0, 0, 0])
    assert knn_accuracy(train, (np.array([[1.0, 0.0]]), np.array([winner]))) == 100
