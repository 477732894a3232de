"""Small model files: one written by hand, and those of quickly trained models."""

import re

import torch

from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.training.ctr import TrainedCtr
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL

MODEL_FILE = ModelFile(
    state_dict={"weight": torch.arange(6.0).reshape(2, 3)},
    n_parameters=6,
    model_config={"name": "improved_mmctr", "dropout": 0.3},
    spec={"n_users": 3, "n_items": 4},
    training_config={"seed": 42},
    metrics={"valid_auc": 0.81234, "valid_auc_low": 0.8, "valid_auc_high": 0.82},
    history={
        "epochs": [
            {
                "epoch": 1,
                "train_loss": 0.6,
                "metrics": {"valid_auc": 0.81234},
                "learning_rate": 2e-3,
                "seconds": 1.0,
                "validation_seconds": 0.1,
                "rows_per_second": 1234.5,
            }
        ],
        "metric": "valid_auc",
        "best_epoch": 1,
        "stopped_early": False,
    },
    data_fingerprint="fingerprint-1",
    vector_identity="vectors-1",
    encoder_identities={"text": "text-1", "image": "image-1"},
    transform_identity="transform-1",
    resolved_config={"training": {"seed": 42}, "model": {"hidden_dims": [512, 256]}},
    run_key="0123abcd",
    library_versions={"python": "3.11", "torch": "2.9"},
    created_at="2026-01-02T03:04:05+00:00",
    preset="sample",
    baselines={
        "popularity": {"auc": 0.55, "difference": 0.26234, "low": 0.25},
        "rates": {"auc": 0.78, "difference": 0.03234, "low": 0.02},
    },
    absent_baselines={"cosine": "no titles"},
)


def small_model_file(trained: TrainedCtr, vectors: ItemVectors) -> ModelFile:
    """Return the file of a model trained on `vectors`."""
    return ModelFile.from_trained(
        trained,
        vectors,
        data_fingerprint="fingerprint-1",
        resolved_config={"model": SMALL_MODEL.to_mapping(), "training": {"seed": 42}},
        run_key="0123abcd",
        preset="sample",
    )


def unpadded(markdown: str) -> str:
    """Return a Markdown table without the spaces that align its columns."""
    return re.sub(" +", " ", markdown)
