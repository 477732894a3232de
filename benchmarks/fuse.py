"""Fit the PCA of titles and covers at full size: ours against scikit-learn's solvers.

    python -m benchmarks.fuse

The data are 91,717 items with 384 + 1,024 float32 columns. Sixty directions have a large variance
and all others the same small one, so the 128 components include some with equal eigenvalues. `peer`
is `PCA(128, svd_solver="full")`. `randomized` is the solver that scikit-learn chooses for such data
and that recipe A uses; `covariance_eigh` is scikit-learn's fastest. `sine` is the sine of the
largest angle between the fitted subspace and that of a float64 solution. `floor_seconds` is the
time for one product X^T X in float64.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import alternate, command_line, final_line, medians, peak_memory_mb

N_ITEMS, TEXT_DIM, IMAGE_DIM, N_STRONG, N_COMPONENTS = 91_717, 384, 1_024, 60, 128

Fit = Callable[[np.ndarray], np.ndarray]


def ours() -> Fit:
    """Fit as the pipeline does."""
    from mmctr_pipeline.data.vectors import VectorTable
    from mmctr_pipeline.fusion.config import FusionConfig
    from mmctr_pipeline.fusion.pca import fit_pca

    item_id, present = np.arange(1, N_ITEMS + 1, dtype=np.int32), np.ones(N_ITEMS, dtype=bool)

    def fit(matrix: np.ndarray) -> np.ndarray:
        # Views without copies, as the pipeline never concatenates the two tables in memory.
        text = VectorTable(item_id, matrix[:, :TEXT_DIM], present, "text")
        image = VectorTable(item_id, matrix[:, TEXT_DIM:], present, "image")
        return fit_pca(text, image, FusionConfig(dim=N_COMPONENTS)).components

    return fit


def _scikit_learn(solver: str, dtype: str = "float32") -> Callable[[], Fit]:
    def side() -> Fit:
        from sklearn.decomposition import PCA

        return lambda matrix: (
            PCA(N_COMPONENTS, svd_solver=solver, random_state=0)
            .fit(matrix.astype(dtype))
            .components_
        )

    return side


def floor() -> Fit:
    """Multiply the transposed matrix with the matrix, and do nothing else."""

    def multiply(matrix: np.ndarray) -> np.ndarray:
        total = np.zeros((matrix.shape[1], matrix.shape[1]))
        for begin in range(0, len(matrix), 8192):
            block = matrix[begin : begin + 8192].astype(np.float64)
            total += block.T @ block
        return total

    return multiply


SIDES = {
    "ours": ours,
    "peer": _scikit_learn("full"),
    "randomized": _scikit_learn("randomized"),
    "covariance_eigh": _scikit_learn("covariance_eigh"),
    "floor": floor,
}


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, [*SIDES, "truth"], rounds=2)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.side:
        side = _scikit_learn("full", "float64") if chosen.side == "truth" else None
        fit = (side or SIDES[chosen.side])()
        matrix = _matrix()
        before = peak_memory_mb()
        start = time.perf_counter()
        found = fit(matrix)
        seconds = time.perf_counter() - start
        np.save(chosen.folder / f"{chosen.side}.npy", found)
        print(json.dumps({"seconds": seconds, "peak_mb": peak_memory_mb(), "data_mb": before}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["--folder", scratch]
        alternate("benchmarks.fuse", ["truth"], 1, arguments)
        results = alternate("benchmarks.fuse", list(SIDES), chosen.rounds, arguments)
        found = {name: np.load(Path(scratch) / f"{name}.npy") for name in [*SIDES, "truth"]}
    sides = {side: medians(rounds) for side, rounds in results.items()}
    sines = {name: largest_sine(found[name], found["truth"]) for name in SIDES if name != "floor"}
    final_line(
        name="fuse",
        ours=sides["ours"]["seconds"],
        peer=sides["peer"]["seconds"],
        ratio=sides["peer"]["seconds"] / sides["ours"]["seconds"],
        unit="s",
        ratio_best=sides["covariance_eigh"]["seconds"] / sides["ours"]["seconds"],
        floor_seconds=sides["floor"]["seconds"],
        seconds={name: round(side["seconds"], 2) for name, side in sides.items()},
        sine={name: float(f"{sine:.2g}") for name, sine in sines.items()},
        peak_mb={name: round(side["peak_mb"]) for name, side in sides.items()},
    )


def largest_sine(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the sine of the largest principal angle between the rows of two `(K, D)` arrays."""
    basis, _ = np.linalg.qr(found.astype(np.float64).T)
    true_basis, _ = np.linalg.qr(truth.astype(np.float64).T)
    left = basis - true_basis @ (true_basis.T @ basis)
    return float(np.linalg.svd(left, compute_uv=False)[0])


def _matrix() -> np.ndarray:
    """Return the data, `(N, D) float32`, the same in every process."""
    rng = np.random.default_rng(0)
    width = TEXT_DIM + IMAGE_DIM
    matrix = rng.standard_normal((N_ITEMS, width), dtype=np.float32)
    strength = np.linspace(8, 2, N_STRONG, dtype=np.float32)
    strong = rng.standard_normal((N_ITEMS, N_STRONG), dtype=np.float32) * strength
    directions, _ = np.linalg.qr(rng.standard_normal((width, N_STRONG)))
    matrix += strong @ directions.T.astype(np.float32)
    # Vectors of encoders are not centred.
    matrix += rng.standard_normal(width, dtype=np.float32)
    return matrix


if __name__ == "__main__":
    main()
