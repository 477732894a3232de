"""The jobs: the whole pipeline, only the encoders, only training, only the sources."""

import dagster as dg

SOURCES = dg.AssetSelection.assets("item_feature", "item_images", "interactions")

full_pipeline = dg.define_asset_job(
    "full_pipeline",
    # `all` leaves out the sources, which are observed, not materialised.
    selection=SOURCES | dg.AssetSelection.all(),
    description="Everything, from the sources to the submission; what the nightly schedule runs.",
)

encode = dg.define_asset_job(
    "encode",
    selection=dg.AssetSelection.assets("text_embeddings", "image_embeddings", "fused_pca"),
    description="Only the item vectors: titles, images and their fusion.",
)

train = dg.define_asset_job(
    "train",
    selection=dg.AssetSelection.assets("trained_model", "submission_csv"),
    description="Model and submission from the vectors and the dataset of an earlier run.",
)

observe_sources = dg.define_asset_job(
    "observe_sources",
    selection=SOURCES,
    description="Hashes the contents of the sources, so that the UI marks stale artefacts.",
)

JOBS = [full_pipeline, encode, train, observe_sources]
