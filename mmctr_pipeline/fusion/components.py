"""Principal components of text and image vectors, of both together or of each by itself."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.linalg

from mmctr_pipeline.fusion.errors import FusionError
from mmctr_pipeline.fusion.modalities import Modalities, row_blocks


@dataclasses.dataclass(frozen=True)
class Components:
    """K principal components of vectors with D columns; the arrays are float64.

    `mean` is `(D,)`. `weight` `(D,)` multiplies the centred columns; None leaves them as they are.
    `components` is `(K, D)` with orthonormal rows, each signed so that its entry of largest
    magnitude is positive. `ratio` `(K,)` is each component's share of the total variance.
    """

    mean: np.ndarray
    weight: np.ndarray | None
    components: np.ndarray
    ratio: np.ndarray


def joint_components(modalities: Modalities, dim: int, *, standardised: bool = False) -> Components:
    """Fit one PCA on the concatenated vectors.

    K is the least of `dim`, items - 1, and the rank of the data. `standardised` gives the columns
    of a modality equal variances that add up to 1. Works on blocks of items, so memory beyond the
    vectors themselves depends only on the number of columns. Raises `FusionError` if there are
    fewer than two items or if all vectors are equal.
    """
    moments, weight = _moments(modalities), None
    if standardised:
        weight = np.concatenate([part.standardising() for part in moments.split(modalities)])
        moments = moments.weighted(weight)
    total = moments.variance
    components, variance = _leading(moments, dim)
    if not len(components):
        raise _all_equal(moments)
    return Components(moments.mean, weight, components, variance / total)


def separate_components(
    modalities: Modalities, dim: int, *, standardised: bool = False
) -> Components:
    """Fit a PCA on each modality by itself; the components of text precede those of image.

    Each modality is scaled to a total variance of 1 over the items that have it, so that neither
    dominates distances. `components_per_modality` divides `dim` between them. Everything else is as
    in `joint_components`.
    """
    moments = _moments(modalities)
    weights, components, variances = [], [], []
    for part in moments.split(modalities):
        weight = part.standardising() if standardised else np.ones(len(part.mean))
        total = part.weighted(weight).variance
        weight *= 0 if total == 0 else 1 / np.sqrt(total)
        fitted, variance = _leading(part.weighted(weight), dim)
        weights.append(weight)
        components.append(fitted)
        variances.append(variance)
    numbers = components_per_modality(variances, dim)
    if not any(numbers):
        raise _all_equal(moments)
    pairs = list(zip(variances, numbers, strict=True))
    return Components(
        moments.mean,
        np.concatenate(weights),
        scipy.linalg.block_diag(*(c[:n] for c, n in zip(components, numbers, strict=True))),
        np.concatenate([variance[:n] for variance, n in pairs]) / sum(n > 0 for n in numbers),
    )


def rotation(n: int, seed: int | Sequence[int]) -> np.ndarray:
    """Return a random orthogonal matrix `(n, n) float64`."""
    generator = np.random.default_rng(seed)
    orthogonal, upper = np.linalg.qr(generator.standard_normal((n, n)))
    return (orthogonal * np.sign(np.diag(upper))).T


def components_per_modality(shares: Sequence[np.ndarray], dim: int) -> list[int]:
    """Return how many of its components each modality keeps: `dim` in total, or all of them.

    `shares` holds, for each modality, the shares of its variance that its components have,
    descending. Each next component is given to the modality that keeps the smaller share so far. So
    the smallest share that a modality keeps is as large as possible.
    """
    numbers = [0] * len(shares)
    kept = [0.0] * len(shares)
    for _ in range(dim):
        unfinished = [m for m, share in enumerate(shares) if numbers[m] < len(share)]
        if not unfinished:
            break
        least = min(unfinished, key=kept.__getitem__)
        kept[least] += float(shares[least][numbers[least]])
        numbers[least] += 1
    return numbers


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Mean `(D,)` and covariance `(D, D)` of vectors of `n_items`, float64.

    `rounding` `(D,)` bounds the variance that comes from rounding the input to float32.
    """

    mean: np.ndarray
    covariance: np.ndarray
    rounding: np.ndarray
    n_items: int

    @property
    def variance(self) -> float:
        """Total variance, 0 if it is no more than rounding."""
        total = float(np.trace(self.covariance))
        return total if total > self.rounding.max() * len(self.mean) else 0.0

    def weighted(self, weight: np.ndarray) -> "_Moments":
        """Return the moments after each centred column is multiplied by its weight."""
        covariance = weight[:, np.newaxis] * self.covariance * weight
        return _Moments(self.mean, covariance, self.rounding * weight**2, self.n_items)

    def split(self, modalities: Modalities) -> "list[_Moments]":
        """Return the moments of each modality, over the items that have it."""
        ends = np.cumsum(modalities.dims)
        parts = []
        for begin, end, has in zip([0, *ends], ends, modalities.present.T, strict=False):
            own, n_items = slice(begin, end), int(has.sum())
            # In the overall covariance, items without this modality count as equal to the mean.
            scale = (self.n_items - 1) / max(n_items - 1, 1)
            covariance = self.covariance[own, own] * scale
            parts.append(_Moments(self.mean[own], covariance, self.rounding[own], n_items))
        return parts

    def standardising(self) -> np.ndarray:
        """Return weights that give the columns equal variances of sum 1; constant columns get 0."""
        variance = np.diag(self.covariance)
        varies = variance > self.rounding
        weight = np.zeros(len(variance))
        weight[varies] = 1 / np.sqrt(variance[varies] * varies.sum())
        return weight


def _moments(modalities: Modalities) -> _Moments:
    mean = np.concatenate([_mean(modalities, name) for name in modalities.tables])
    n_items, n_columns = modalities.n_items, len(mean)
    if n_items < 2:
        raise FusionError(f"a PCA needs at least two items with a vector, there are {n_items}")
    # In float64 throughout: with float32 sums, directions of nearly equal variance get mixed
    # (`benchmarks/fuse.py` measures it).
    covariance = np.zeros((n_columns, n_columns))
    for rows in modalities.blocks():
        block = centred(modalities, rows, mean)
        covariance += block.T @ block
    covariance /= n_items - 1
    # A spread below the last digit of the float32 input is rounding, not data.
    rounding = (np.abs(mean) * np.finfo(np.float32).eps / 2) ** 2
    return _Moments(mean, covariance, rounding, n_items)


def _leading(moments: _Moments, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading components `(K, D)` and their variances `(K,)`; none for equal vectors."""
    n_columns = len(moments.mean)
    n_components = min(dim, moments.n_items - 1, n_columns)
    if n_components < 1 or not moments.variance:
        return np.zeros((0, n_columns)), np.zeros(0)
    top = (n_columns - n_components, n_columns - 1)
    ascending, vectors = scipy.linalg.eigh(moments.covariance, subset_by_index=top)
    variance = ascending[::-1]
    # Beyond the rank of the data, directions are rounding noise and differ between machines.
    noise = variance[0] * max(moments.n_items, n_columns) * np.finfo(np.float64).eps
    k = max(1, int((variance > max(noise, moments.rounding.max())).sum()))
    # A copy, as NumPy calls a single reversed column contiguous, but torch refuses its stride.
    components = np.array(vectors[:, ::-1][:, :k].T, order="C")
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(k), largest])[:, np.newaxis]
    return components, variance[:k]


def _all_equal(moments: _Moments) -> FusionError:
    return FusionError(f"all {moments.n_items:,} vectors are equal: there is nothing to fit")


def _mean(modalities: Modalities, name: str) -> np.ndarray:
    """Return the mean over the items that have this modality, `(D_m,) float64`."""
    table = modalities.tables[name]
    total = np.zeros(table.dim)
    for rows in row_blocks(table.present):
        total += modalities.vectors(name, rows).sum(axis=0)
    return total / table.present.sum()


def centred(modalities: Modalities, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the concatenated vectors minus the mean; zero where a modality is missing."""
    vectors, present = modalities.concatenated(rows)
    return np.subtract(vectors, mean, out=vectors, where=present)
