# syntax=docker/dockerfile:1

# Tags, not digests: a rebuild takes the base's security updates. What Valet itself runs on is
# pinned to the last package by requirements/*.lock.
FROM python:3.11-slim-bookworm AS build
ARG ENGINE=cpu
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /opt/valet
COPY requirements/ requirements/
COPY app/ app/
COPY cache_tiers/ cache_tiers/
COPY engine/ engine/
COPY load/ load/
COPY sessions/ sessions/
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip python3 requirements/install.py "$ENGINE"

FROM python:3.11-slim-bookworm
# What the engine loads, and the compiler that it makes kernels with.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/valet valet \
    && chmod 0700 /var/lib/valet
WORKDIR /opt/valet
# The environment knows its path and its Python: both stages have the same.
COPY --from=build /opt/valet /opt/valet
USER valet
# Caches of compiled kernels and of downloaded models go where the volume is.
ENV HOME=/var/lib/valet PYTHONDONTWRITEBYTECODE=1 VALET_HOME=/var/lib/valet
VOLUME /var/lib/valet
EXPOSE 8000
ENTRYPOINT [".venv/bin/valet"]
CMD ["serve"]
