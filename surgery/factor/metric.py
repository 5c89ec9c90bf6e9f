"""What an error of a layer's weight costs: the mean square of what it does to the layer's output on given inputs.

For inputs x (patches of a convolution, unfolded) with second moment C about their mean, an error D of the weight and a
bias that makes up for the mean, the mean squared error of the output is tr(D C Dᵀ). Without data C = 1, which is the
Frobenius norm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from surgery.ops.array import Float64Array, FloatArray


class Metric(ABC):
    """One symmetric positive definite matrix C (n, n) for each group, n = in / groups · kh · kw.

    Columns stand in the order of `weight.reshape(out, -1)`: channel, row, column of the kernel. All sums are float64.
    """

    groups: int
    size: int

    @abstractmethod
    def times(self, group: int, rows: FloatArray) -> Float64Array:
        """Return rows (m, n) @ C."""

    @abstractmethod
    def solve(self, group: int, rows: FloatArray) -> Float64Array:
        """Return rows (m, n) @ C⁻¹."""

    @abstractmethod
    def dense(self, group: int) -> Float64Array:
        """Return C itself, read-only."""

    def gram(self, group: int, rows: FloatArray) -> Float64Array:
        """Return rows @ C @ rowsᵀ (m, m), symmetric."""
        product = self.times(group, rows) @ rows.astype(np.float64).T
        result: Float64Array = (product + product.T) / 2
        return result

    def squares(self, weight: FloatArray) -> list[float]:
        """Return tr(W C Wᵀ) of each group for a weight (out, in / groups, ...) of the layer's shape."""
        groups = enumerate(np.split(weight.reshape(len(weight), -1), self.groups))
        return [float(np.einsum("ij,ij->", self.times(g, rows), rows)) for g, rows in groups]

    def squared(self, weight: FloatArray) -> float:
        """Return the sum of `squares`."""
        return max(0.0, sum(self.squares(weight)))


@dataclass(frozen=True, eq=False)
class DenseMetric(Metric):
    """C = M + ridge · 1 for `moments` M (groups, n, n), which no copy is made of."""

    moments: Float64Array
    ridge: float = 0.0

    @property
    def groups(self) -> int:  # type: ignore[override]
        """Number of groups."""
        return len(self.moments)

    @property
    def size(self) -> int:  # type: ignore[override]
        """Side n of C."""
        return int(self.moments.shape[1])

    def times(self, group: int, rows: FloatArray) -> Float64Array:
        """See `Metric.times`."""
        left = rows.astype(np.float64, copy=False)
        result: Float64Array = left @ self.moments[group]
        if self.ridge:
            result += self.ridge * left
        return result

    def solve(self, group: int, rows: FloatArray) -> Float64Array:
        """See `Metric.solve`."""
        import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

        raised = self.moments[group].copy()
        raised.flat[:: self.size + 1] += self.ridge
        # Symmetric, so that in the order of LAPACK it is its own transpose, and overwritten; as the rows are.
        factor = scipy.linalg.cho_factor(raised.T, lower=True, overwrite_a=True, check_finite=False)
        left = rows.astype(np.float64)
        result: Float64Array = scipy.linalg.cho_solve(factor, left.T, overwrite_b=True, check_finite=False).T
        return result

    def dense(self, group: int) -> Float64Array:
        """See `Metric.dense`: with a ridge made on each call."""
        result: Float64Array = self.moments[group].copy() if self.ridge else self.moments[group].view()
        if self.ridge:
            result.flat[:: self.size + 1] += self.ridge
        result.flags.writeable = False
        return result


@dataclass(frozen=True, eq=False)
class SampledMetric(Metric):
    """C = SᵀS + ridge · 1 for samples S (groups, N, n), N below n: for inputs too long for C itself."""

    samples: FloatArray
    ridge: float

    @property
    def groups(self) -> int:  # type: ignore[override]
        """Number of groups."""
        return len(self.samples)

    @property
    def size(self) -> int:  # type: ignore[override]
        """Side n of C."""
        return int(self.samples.shape[2])

    def times(self, group: int, rows: FloatArray) -> Float64Array:
        """See `Metric.times`."""
        samples, left = self.samples[group], rows.astype(np.float64, copy=False)
        result: Float64Array = (left @ samples.T) @ samples + self.ridge * left
        return result

    def solve(self, group: int, rows: FloatArray) -> Float64Array:
        """See `Metric.solve`: (SᵀS + r)⁻¹ = (1 - Sᵀ (S Sᵀ + r)⁻¹ S) / r (Woodbury)."""
        import scipy.linalg

        samples, left = self.samples[group], rows.astype(np.float64, copy=False)
        inner = scipy.linalg.cho_solve(self._factors[group], samples @ left.T, check_finite=False)
        result: Float64Array = (left - inner.T @ samples) / self.ridge
        return result

    def dense(self, group: int) -> Float64Array:
        """See `Metric.dense`: made on each call."""
        samples = self.samples[group].astype(np.float64)
        result: Float64Array = samples.T @ samples
        result.flat[:: self.size + 1] += self.ridge
        return result

    @cached_property
    def _factors(self) -> list[tuple[Float64Array, bool]]:
        import scipy.linalg

        squares = (s.astype(np.float64) @ s.astype(np.float64).T for s in self.samples)
        return [scipy.linalg.cho_factor(s + self.ridge * np.eye(len(s)), lower=True) for s in squares]
