# One image for the code server, the webserver and the daemon; docker-compose.yml says what each of them runs.
FROM python:3.11.15-slim-bookworm AS build

# PyPI's torch for Linux computes on NVIDIA GPUs and weighs gigabytes; docker/cpu.yaml names the index of the small one.
ARG TORCH_INDEX_URL=https://pypi.org/simple
ENV PIP_DISABLE_PIP_VERSION_CHECK=1

RUN python -m venv /opt/venv
WORKDIR /src
COPY constraints.txt ./
# Alone and without what it needs, so that everything else comes from PyPI.
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --no-deps --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md ./
COPY arxiv_embed ./arxiv_embed
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --constraint constraints.txt .


FROM python:3.11.15-slim-bookworm

# Everything that is written, the caches of models and compiled kernels too, lies in the volume of /var/lib/arxiv_embed.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/arxiv_embed \
    XDG_CACHE_HOME=/var/lib/arxiv_embed/cache \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN groupadd --gid 10001 arxiv && \
    useradd --uid 10001 --gid 10001 --home-dir /var/lib/arxiv_embed --no-create-home --shell /usr/sbin/nologin arxiv && \
    install --directory --owner=10001 --group=10001 /var/lib/arxiv_embed
COPY --from=build /opt/venv /opt/venv
COPY dagster.yaml docker/workspace.yaml /opt/dagster/

WORKDIR /opt/dagster
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", "4000", "-m", "arxiv_embed.definitions", "-a", "defs"]
