# A worker: torch and transformers over a CUDA base, not root, fit for a read-only root file system.
#
#   docker build -f deploy/images/worker.Dockerfile --build-arg BASE=nvidia/cuda:<version>-base-ubuntu24.04 -t forebay/worker:0.1.0 .
#
# BASE: a Debian or Ubuntu whose python3 is 3.11 or newer. torch brings CUDA's libraries along, so a `base` flavour does; the
# driver comes from the node. The operator starts `python -m forebay_worker serve --count 1`.
ARG BASE

FROM ${BASE} AS python
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
# Modules are compiled once, here (torch and transformers import twice as fast), and trusted as they are.
ENV PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY constraints.txt pyproject.toml ./
RUN python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt uv \
    && python3 -m venv --without-pip /opt/forebay
# What we depend on is gigabytes and changes seldom: a layer of its own.
RUN /opt/uv/bin/uv pip install --python /opt/forebay/bin/python --constraint constraints.txt \
    --requirement pyproject.toml --extra worker
COPY . .
RUN /opt/uv/bin/uv pip install --python /opt/forebay/bin/python --no-deps .

FROM python
COPY --from=build /opt/forebay /opt/forebay
# CUDA's images ask for all GPUs of a node; ours are the device plugin's to give, which sets this anew.
ENV NVIDIA_VISIBLE_DEVICES=void \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PATH=/opt/forebay/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
CMD ["python", "-m", "forebay_worker", "serve", "--count", "1"]
