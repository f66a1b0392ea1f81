# This checkout for TPUs. In the root of the project:
#
#   docker build --file launch/docker/tpu.Dockerfile --tag REGION-docker.pkg.dev/PROJECT/REPO/seqgpt-tpu .
#   docker push REGION-docker.pkg.dev/PROJECT/REPO/seqgpt-tpu
#
# libtpu comes with jax's extra. --build-arg PACKAGES=wandb installs more.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1
WORKDIR /seqgpt
COPY setup.py pyproject.toml README.md LICENSE ./
COPY seqgpt_jax seqgpt_jax
COPY tasks tasks
COPY gin gin
ARG PACKAGES=""
RUN pip install --no-cache-dir '.[tpu]' ${PACKAGES}

ENTRYPOINT ["seqgpt"]
