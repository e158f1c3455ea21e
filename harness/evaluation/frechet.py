"""Mean and covariance as a stream, and the Fréchet distance between two of them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from torch import Tensor

Array = NDArray[np.float64]


@dataclass
class Moments:
    """Count, mean and scatter of feature vectors, accumulated in float64.

    Every batch is centred on its own mean before it is merged (Chan et al. 1983), so a large
    mean costs no digits; memory is D x D, however many vectors pass. `scatter` is the sum of
    outer products of deviations from the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dim: int, device: torch.device | str = "cpu") -> "Moments":
        return cls(
            0,
            torch.zeros(dim, dtype=torch.float64, device=device),
            torch.zeros(dim, dim, dtype=torch.float64, device=device),
        )

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """The moments of features [N, D]."""
        made = cls.empty(features.shape[1], features.device)
        made.add(features)
        return made

    def add(self, features: Tensor) -> None:
        """Take in features [N, D], in place: one product adds the scatter of the batch and that of the two means."""
        features = features.double()
        mean, count = features.mean(0), self.count + len(features)
        shift = mean - self.mean
        apart = shift * math.sqrt(self.count * len(features) / count)
        rows = torch.cat([features - mean, apart[None]])
        self.scatter.addmm_(rows.T, rows)
        self.mean += shift * (len(features) / count)
        self.count = count

    def merge(self, other: "Moments") -> None:
        """Take in the vectors that `other` saw, in place."""
        count = self.count + other.count
        shift = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter.addr_(shift, shift, alpha=self.count * other.count / count)
        self.mean += shift * (other.count / count)
        self.count = count

    @property
    def covariance(self) -> Array:
        """The unbiased covariance [D, D] (division by N-1), as TTUR and torch-fidelity take it."""
        return (self.scatter / (self.count - 1)).cpu().numpy()


def frechet_distance(mean1: Array, cov1: Array, mean2: Array, cov2: Array) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians, float64.

    With S1 = L L^T the last trace is that of (L^T S2 L)^(1/2), a symmetric matrix. L comes from a
    pivoted Cholesky of the covariance of lower rank and has just that many columns. Dimensions
    which too few images leave empty are so absent instead of being rounding errors of 1e-16,
    whose square roots, 1e-8 each, would add up: with 40 images torch-fidelity's value is off by 4e-5.
    """
    (factor, other), *_ = sorted(((_factor(cov1), cov2), (_factor(cov2), cov1)), key=lambda pair: pair[0].shape[1])
    overlap = np.sqrt(linalg.eigvalsh(factor.T @ other @ factor).clip(0)).sum() if factor.size else 0.0
    shift = mean1 - mean2
    return float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * overlap)


def distance(first: Moments, second: Moments) -> float:
    """The Fréchet distance of two streams."""
    return frechet_distance(first.mean.cpu().numpy(), first.covariance, second.mean.cpu().numpy(), second.covariance)


def _factor(cov: Array) -> Array:
    """L [D, rank] with L L^T = cov, positive semi-definite; the rank is decided at rounding error."""
    lower, pivots, rank, _ = linalg.lapack.dpstrf(cov, lower=1)
    factor = np.empty((len(cov), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor
