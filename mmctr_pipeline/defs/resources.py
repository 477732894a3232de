"""The resource that gives assets their deployment: data, storage and device."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from mmctr_pipeline.data.discovery import DataLayout, find_data
from mmctr_pipeline.environment import Deployment

if TYPE_CHECKING:
    import torch

    from mmctr_pipeline.encoders.store.vector_store import VectorStore


class DeploymentResource(dg.ConfigurableResource):
    """Data folder, storage folder and device of a deployment."""

    data_dir: str | None = Field(
        description="folder of the data; without it the sample dataset is generated"
    )
    storage_dir: str = Field(description="folder of all artefacts")
    device: str = Field(description="auto, cpu, cuda or cuda:N")

    @classmethod
    def from_environment(cls, deployment: Deployment) -> "DeploymentResource":
        """Return the resource for the deployment that the environment describes."""
        return cls(
            data_dir=str(deployment.data_dir) if deployment.data_dir else None,
            storage_dir=str(deployment.storage_dir),
            device=deployment.device,
        )

    @property
    def storage(self) -> Path:
        """The storage folder."""
        return Path(self.storage_dir)

    def data_root(self) -> Path:
        """Return the data folder, generating the sample dataset if there is no other data."""
        if self.data_dir is not None:
            return Path(self.data_dir)
        from mmctr_pipeline.sample.config import SampleConfig
        from mmctr_pipeline.sample.write import ensure_sample

        return ensure_sample(SampleConfig(), self.storage / "sample")

    def layout(self) -> DataLayout:
        """Find the files in the data folder."""
        return find_data(self.data_root())

    def vector_store(self) -> "VectorStore":
        """Open the store of earlier encodings."""
        from mmctr_pipeline.encoders.store.vector_store import VectorStore

        return VectorStore(self.storage / "vectors")

    def torch_device(self) -> "torch.device":
        """Return the device to compute on."""
        from mmctr_pipeline.training.device import resolve_device

        return resolve_device(self.device)
