"""Replace settings that are `auto` with a choice that fits the data, and log it with its reason."""

import dataclasses
import logging

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.facts import DataFacts, data_facts
from mmctr_pipeline.models.config import FeatureModelSettings, ModelConfig
from mmctr_pipeline.models.feature_config import FeatureConfig
from mmctr_pipeline.training.config import TrainingConfig

logger = logging.getLogger(__name__)


def resolve_auto(
    dataset: CtrDataset, model: ModelConfig, training: TrainingConfig
) -> tuple[ModelConfig, TrainingConfig]:
    """Return both settings without any `auto`.

    Settings without `auto` are returned as they are, and the data are not read. Otherwise the train
    rows must have labels of both classes.
    """
    if training.in_batch_negatives != "auto" and not _has_auto(model):
        return model, training
    facts = data_facts(dataset)
    for sentence in facts.sentences():
        logger.info(f"the data: {sentence}")
    if training.in_batch_negatives == "auto":
        share = 1.0 if facts.negatives == "draws" else 0.0
        _log("training.in_batch_negatives", f"{share:g}", facts.why_negatives())
        training = dataclasses.replace(training, in_batch_negatives=share)
    if isinstance(model, FeatureModelSettings):
        model = dataclasses.replace(model, features=_features(model.features, facts))
    return model, training


def _has_auto(model: ModelConfig) -> bool:
    if not isinstance(model, FeatureModelSettings):
        return False
    return "auto" in (model.features.user, model.features.item_rates)


def _features(features: FeatureConfig, facts: DataFacts) -> FeatureConfig:
    if features.user == "auto":
        # If rows without a click are random draws, they do not show what a user dislikes. What the
        # user likes, the history shows already.
        is_drawn = facts.negatives == "draws"
        is_on = facts.users_return and not is_drawn
        features = dataclasses.replace(features, user="factors" if is_on else "never")
        reason = facts.why_negatives() if is_drawn else facts.why_users()
        _log("model.features.user", features.user, reason)
    if features.item_rates == "auto":
        learned = "item_id is on" if features.item_id else None
        if features.user == "factors":
            learned = "the factors hold a bias of the item"
        is_on = facts.negatives == "impressions" and learned is None
        features = dataclasses.replace(features, item_rates="always" if is_on else "never")
        reason = learned or facts.why_negatives()
        _log("model.features.item_rates", features.item_rates, reason)
    return features


def _log(setting: str, value: str, reason: str) -> None:
    logger.info(f"{setting}: auto chose {value}, because {reason}")
