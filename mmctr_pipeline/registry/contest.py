"""The contest of the model trained last with the champion: the one gate before a submission."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.model_rows import OtherIdsError
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.metrics import MetricError
from mmctr_pipeline.registry.auc_gate import AucVerdict
from mmctr_pipeline.registry.champion import Champion, ChampionError, best_model, succeed
from mmctr_pipeline.registry.comparison import ModelComparison, compare_models
from mmctr_pipeline.registry.config import PromotionConfig
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError
from mmctr_pipeline.registry.slices import valid_slices
from mmctr_pipeline.training.batch_source import TrainingDataError

Score = Callable[[ModelFile], np.ndarray]
"""Returns the click probabilities of the valid rows by a model file, `(N,)`."""

_CANNOT_SCORE = (OtherIdsError, TrainingDataError, DamagedFileError, MetricError, FileNotFoundError)


class NoChampionError(ChampionError):
    """The challenger is rejected, and there is no champion to submit in its place."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The champion after a contest.

    `promoted` tells whether the challenger, `version`, became it. `headline` says why or why not,
    with the figures, in one line; `problems` are all reasons against the challenger. `comparison`
    is None if none was made. `is_past_day` is true if the challenger only rebuilt an earlier day;
    such a model is never promoted.
    """

    champion: Champion
    version: str
    promoted: bool
    headline: str
    problems: tuple[str, ...] = ()
    comparison: ModelComparison | None = None
    is_past_day: bool = False


def hold_contest(
    storage: Path,
    version: str,
    challenger: ModelFile,
    floor: AucVerdict,
    dataset: CtrDataset,
    score: Score,
    config: PromotionConfig,
) -> Outcome:
    """Decide whether a challenger becomes the champion; write nothing.

    It has to pass the AUC gate, and must not be worse than the champion (`compare_models`). A model
    of an earlier day than the champion's never replaces it. The first champion has to pass the AUC
    gate alone.

    Raises `NoChampionError` if the challenger is rejected and there is no champion.

    Parameters
    ----------
    storage
        The storage folder, with the champion and all versions.
    version, challenger
        The version to promote, and its model file.
    floor
        The verdict of the AUC gate on the challenger.
    dataset
        The dataset on whose valid rows the models are compared.
    score
        Scores the valid rows by a model that has no scores of them in its file.
    config
        Margins.
    """
    champion = Champion.read(storage)
    if not floor.passed:
        return _rejected(champion, version, (floor.explanation,))
    if challenger.data_fingerprint != dataset.fingerprint:
        problem = (
            "the model was trained on other data than those of train_dataset, so it cannot be "
            "compared on its valid rows: materialise trained_model again"
        )
        return _rejected(champion, version, (problem,))
    if champion is None:
        record = succeed(storage, None, version, f"the first champion: {floor.explanation}")
        return Outcome(record, version, True, record.reason)
    if version == champion.version:
        return Outcome(champion, version, True, f"{version} is the champion already")
    if version in champion.withdrawn:
        problem = (
            "a roll-back has withdrawn it; `mmctr models promote` with its version makes it the "
            "champion again"
        )
        return _rejected(champion, version, (problem,))
    day, champion_day = challenger.data_day, champion.load(storage).data_day
    if day and day < champion_day:
        problem = (
            f"its data end on {day}, before those of the champion ({champion_day}): a rebuilt past "
            "day is scored but not promoted"
        )
        return dataclasses.replace(_rejected(champion, version, (problem,)), is_past_day=True)
    return _compared(storage, champion, version, challenger, dataset, score, config)


def promote_by_hand(storage: Path, version: str, reason: str) -> Outcome:
    """Make a version the champion without a contest, for a roll-back; write nothing.

    Raises `ChampionError` if there is no such version.
    """
    champion = Champion.read(storage)
    record = succeed(storage, champion, version, reason)
    return Outcome(record, version, True, f"{version} was promoted without a comparison: {reason}")


def _compared(
    storage: Path,
    champion: Champion,
    version: str,
    challenger: ModelFile,
    dataset: CtrDataset,
    score: Score,
    config: PromotionConfig,
) -> Outcome:
    best = best_model(storage, champion)
    label = dataset.valid.label
    assert label is not None
    try:
        scores = valid_scores(challenger, dataset, score)
        champion_scores = valid_scores(champion.load(storage), dataset, score)
        best_scores = None if best is None else valid_scores(best, dataset, score)
        slices = valid_slices(dataset)
        found = compare_models(label, scores, champion_scores, best_scores, slices, config)
    except _CANNOT_SCORE as error:
        problem = (
            f"champion and challenger cannot be compared: {error}. If the champion belongs to "
            f"other data, set another MMCTR_STORAGE_DIR, or: mmctr models promote {version}"
        )
        return _rejected(champion, version, (problem,))
    if found.problems:
        return _rejected(champion, version, found.problems, found)
    whole = found.whole
    reason = (
        f"AUC {whole.challenger:.4f} against {whole.other:.4f} of {champion.version}: difference "
        f"{whole.difference:+.4f}, lower end {whole.low:+.4f} above {-config.margin:.4f}"
    )
    is_best = (found.best or whole).difference > 0
    record = succeed(storage, champion, version, reason, best=version if is_best else None)
    return Outcome(record, version, True, f"promoted: {reason}", comparison=found)


def valid_scores(model: ModelFile, dataset: CtrDataset, score: Score) -> np.ndarray:
    """Return a model's scores of the valid rows, `(N,)`, from its file where it has them.

    Raises `ModelFileError` if a final fit leaves no way to score them, and the errors of `score`.
    """
    is_same = model.data_fingerprint == dataset.fingerprint
    if model.valid_probabilities is not None and is_same:
        return model.valid_probabilities.numpy()
    if model.final_fit is not None and is_same:
        raise ModelFileError(
            "a final fit trained the model on the valid rows too, and its file has no scores of "
            "them from before: materialise trained_model again"
        )
    return score(model)


def _rejected(
    champion: Champion | None,
    version: str,
    problems: tuple[str, ...],
    comparison: ModelComparison | None = None,
) -> Outcome:
    if champion is None:
        raise NoChampionError(
            f"no model may be submitted: {version} is rejected, and there is no champion yet. "
            + "; ".join(problems)
        )
    headline = f"rejected: {problems[0]}"
    return Outcome(champion, version, False, headline, problems, comparison)
