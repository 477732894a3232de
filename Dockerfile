# The image of every process: code server, webserver, daemon and runs. docs/deploy.md describes its use.
FROM python:3.11-slim-bookworm

# Which PyTorch: empty for the one of PyPI, which uses a GPU if there is one; "cpu" for a smaller image
# that does not; a CUDA version such as "cu128" for older drivers.
ARG TORCH_BACKEND=""
# One more extra of pyproject.toml, such as ray.
ARG EXTRA=""

ENV VIRTUAL_ENV=/opt/mmctr/venv \
    PATH=/opt/mmctr/venv/bin:/usr/local/bin:/usr/bin:/bin \
    DAGSTER_HOME=/opt/mmctr/dagster \
    DAGSTER_DISABLE_TELEMETRY=1 \
    MMCTR_STORAGE_DIR=/var/lib/mmctr/storage \
    HF_HOME=/var/lib/mmctr/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1

# Volumes that are mounted here take over the owner of these folders.
RUN useradd --uid 10001 --create-home mmctr \
    && install -d -o mmctr -g mmctr /opt/mmctr/dagster /var/lib/mmctr

WORKDIR /opt/mmctr/source
RUN python -m venv $VIRTUAL_ENV

# The packages come first, so that a change of the code does not install them again.
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache \
    python -m pip install -c constraints.txt uv \
    && uv pip install --compile-bytecode ${TORCH_BACKEND:+--torch-backend=$TORCH_BACKEND} \
        -c constraints.txt -r pyproject.toml --extra deploy --extra k8s --extra s3 \
        ${EXTRA:+--extra=$EXTRA}

COPY README.md LICENSE ./
COPY mmctr_pipeline ./mmctr_pipeline
RUN --mount=type=cache,target=/root/.cache \
    uv pip install --compile-bytecode --no-deps .

USER 10001
WORKDIR /var/lib/mmctr
EXPOSE 3000 4000
CMD ["dagster", "code-server", "start", "-h", "0.0.0.0", "-p", "4000", "-m", "mmctr_pipeline.definitions"]
