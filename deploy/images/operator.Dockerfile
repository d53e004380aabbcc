# Operator and gateway in one image: no torch, no compiler, not root, fit for a read-only root file system.
#
#   docker build -f deploy/images/operator.Dockerfile -t forebay/operator:0.1.0 .
#
# The chart starts `python -m forebay_operator --cluster` and `python -m forebay_gateway`.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
# Modules are compiled once, here, and trusted as they are: copying may change times of files.
ENV PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
WORKDIR /build
COPY constraints.txt pyproject.toml ./
RUN python -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt uv \
    && python -m venv --without-pip /opt/forebay
# What we depend on changes seldom: a layer of its own.
RUN /opt/uv/bin/uv pip install --python /opt/forebay/bin/python --constraint constraints.txt \
    --requirement pyproject.toml --extra operator --extra gateway
COPY . .
RUN /opt/uv/bin/uv pip install --python /opt/forebay/bin/python --no-deps .

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/forebay /opt/forebay
ENV PATH=/opt/forebay/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
CMD ["python", "-m", "forebay_operator", "--cluster"]
