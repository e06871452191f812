"""Distances between sets of examples, given features, and whether samples copy the training set.

Fréchet distance of two sets, each taken for a Gaussian (Heusel et al. 2017, eq. 6):

    |m_1 - m_2|² + Tr( S_1 + S_2 - 2 (S_1 S_2)^(1/2) ),      S with ddof = 1.

The trace of the root is that of the symmetric matrix S_1^(1/2) S_2 S_1^(1/2), found from two symmetric
eigendecompositions in float64: never complex, never NaN, whatever the rank.  What the features are decides what the
number means; name them, and n, whenever one is printed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.errors import UsageError

QUERIES_AT_ONCE = 1024


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between features a (N, d) and b (M, d), N and M at least 2."""
    if min(len(a), len(b)) < 2:
        raise UsageError("a Fréchet distance needs at least two examples on each side.")
    a, b = a.double(), b.double()
    d = a.shape[1]
    S_a, S_b = torch.cov(a.T).reshape(d, d), torch.cov(b.T).reshape(d, d)
    values, vectors = torch.linalg.eigh(S_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ S_b @ root).clamp(min=0).sqrt().sum()
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + S_a.trace() + S_b.trace() - 2 * trace_of_root
    return max(0.0, float(distance))


def nearest_neighbours(queries: Tensor, points: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest points of each query: (distances (N, k), rows (N, k)), exact Euclidean in float64."""
    points = points.double()
    found = [
        torch.cdist(part.double(), points, compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False)
        for part in queries.split(QUERIES_AT_ONCE)
    ]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def neighbour_classes(queries: Tensor, points: Tensor, labels: Tensor, k: int = 3) -> Tensor:
    """The class of each query by the majority of its k nearest points; the nearer class wins a tie."""
    _, rows = nearest_neighbours(queries, points, k)
    votes = torch.nn.functional.one_hot(labels[rows]).double()
    nearness = torch.linspace(1, 0.5, k, dtype=torch.float64)[None, :, None] * 1e-3
    return (votes * (1 + nearness)).sum(1).argmax(1)
