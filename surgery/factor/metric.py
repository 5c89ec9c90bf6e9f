"""What an error of a layer's weight costs: the mean square of what it does to the layer's output on given inputs.

For inputs x (patches of a convolution, unfolded) with second moment C about their mean, an error D of the weight and a
bias that makes up for the mean, the mean squared error of the output is tr(D C Dᵀ). Without data C = 1, which is the
Frobenius norm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from surgery.factor.cholesky import lent
from surgery.ops.array import Float64Array, FloatArray

Rows = Callable[[slice], Float64Array]

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
    def solve(self, group: int, rows: Rows, out: FloatArray) -> None:
        """Write rows (m, n) @ C⁻¹ to `out`; `rows` makes some of them at a time, float64, which may be overwritten."""

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
        parts = (rows[few] for few in _parts(len(rows)))
        return sum(float(np.einsum("ij,ij->", self.times(group, part), part)) for part in parts)

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
        from scipy.linalg.blas import daxpy  # Loading SciPy takes longer than inspecting a network.

        result = np.empty(rows.shape)
        for few in _parts(len(rows)):
            left = rows[few].astype(np.float64, copy=False)
            np.matmul(left, self.moments[group], out=result[few])
            daxpy(left.reshape(-1), result[few].reshape(-1), a=self.ridge)  # In place.
        return result

    def solve(self, group: int, rows: Rows, out: FloatArray) -> None:
        """See `Metric.solve`."""
        import scipy.linalg  # Loading SciPy takes longer than inspecting a network.

        with lent(self.moments[group], self.ridge) as factor:
            for some in _parts(len(out)):
                out[some] = scipy.linalg.cho_solve(factor, rows(some).T, overwrite_b=True, check_finite=False).T

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
        result = np.empty(rows.shape)
        for some in _parts(len(rows)):
            left = rows[some].astype(np.float64)
            made = self.ridge * left
            for _, samples in self._blocks(group):
                made += (left @ samples.T) @ samples
            result[some] = made
        return result

    def solve(self, group: int, rows: Rows, out: FloatArray) -> None:
        """See `Metric.solve`: (SᵀS + r)⁻¹ = (1 - Sᵀ (S Sᵀ + r)⁻¹ S) / r (Woodbury)."""
        import scipy.linalg

        factor = scipy.linalg.cho_factor(self._squares(group), lower=True, overwrite_a=True, check_finite=False)
        for some in _parts(len(out)):
            left = rows(some)
            inner = np.empty((len(self.samples[group]), len(left)), order="F")
            for few, samples in self._blocks(group):
                inner[few] = samples @ left.T
            inner = scipy.linalg.cho_solve(factor, inner, overwrite_b=True, check_finite=False)
            for few, samples in self._blocks(group):
                left -= inner[few].T @ samples
            out[some] = left / self.ridge

    def dense(self, group: int) -> Float64Array:
        """See `Metric.dense`: made on each call."""
        samples = self.samples[group].astype(np.float64)
        result: Float64Array = samples.T @ samples
        result.flat[:: self.size + 1] += self.ridge
        return result

    def _squares(self, group: int) -> Float64Array:
        """Return S Sᵀ + ridge · 1, only what is on and below the diagonal."""
        result = np.zeros(2 * self.samples.shape[1:2], order="F")  # As LAPACK wants it, to be overwritten.
        for few, samples in self._blocks(group):
            for other, others in self._blocks(group):
                if other.start <= few.start:
                    result[few, other] = samples @ others.T
        result.flat[:: len(result) + 1] += self.ridge
        return result

    def _blocks(self, group: int) -> Iterator[tuple[slice, Float64Array]]:
        """Yield some samples at a time: in float64 they take twice what they do."""
        return ((few, self.samples[group, few].astype(np.float64)) for few in _parts(self.samples.shape[1]))


def _parts(length: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, length)) for start in range(0, length, ROWS))
