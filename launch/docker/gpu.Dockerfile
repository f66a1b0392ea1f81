# This checkout for NVIDIA GPUs. In the root of the project:
#
#   docker build --file launch/docker/gpu.Dockerfile --tag seqgpt-gpu .
#   docker run --gpus all --volume /data:/shared seqgpt-gpu train gin/recipes/quickstart.gin --run_dir /shared/run
#
# CUDA, cuDNN and NCCL come with jax's wheels; the host gives the driver. --build-arg PACKAGES=wandb installs more.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /seqgpt
COPY setup.py pyproject.toml README.md LICENSE ./
COPY seqgpt_jax seqgpt_jax
COPY tasks tasks
COPY gin gin
ARG PACKAGES=""
RUN pip install --no-cache-dir '.[cuda12]' ${PACKAGES}

ENTRYPOINT ["seqgpt"]
