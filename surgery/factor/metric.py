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

from surgery.factor.cholesky import lent
from surgery.ops.array import Float64Array, FloatArray

ROWS = 128  # Of a weight at a time: enough for BLAS, and no copy of a layer worth cutting.


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

    def square(self, group: int, rows: FloatArray) -> float:
        """Return tr(D C Dᵀ) for some rows D (m, n)."""
        parts = (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))
        return sum(float(np.einsum("ij,ij->", self.times(group, few), few)) for few in parts)

    def squared(self, weight: FloatArray) -> float:
        """Return the sum of `square` over the groups for a weight (out, in / groups, ...) of the layer's shape."""
        groups = enumerate(np.split(weight.reshape(len(weight), -1), self.groups))
        return max(0.0, sum(self.square(group, rows) for group, rows in groups))


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
        result = np.empty(rows.shape)
        for start in range(0, len(rows), ROWS):
            few = slice(start, start + ROWS)
            left = rows[few].astype(np.float64)
            np.matmul(left, self.moments[group], out=result[few])
            left *= self.ridge
            result[few] += left
        return result

    def solve(self, group: int, rows: FloatArray) -> Float64Array:
        """See `Metric.solve`."""
        import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

        left = rows.astype(np.float64, order="C")
        with lent(self.moments[group], self.ridge) as factor:
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
