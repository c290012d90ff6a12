# The image of every stage on a cluster, and of `bertline` in a container:
#   docker build -t REGISTRY/bertline:0.1.0 .                      CPU, TPU
#   docker build -t REGISTRY/bertline:0.1.0-gpu --build-arg GPU=1 .
#   docker run --read-only -p 127.0.0.1:8500:8500 -v $PWD:/work:ro REGISTRY/bertline:0.1.0 serve CONFIG
# trixie: ml-metadata and tensorflow-data-validation are built for its C library, or a newer one.
# By full version: a digest could not be looked up, since no registry is reached from where this file is kept. Where one
# is, `docker buildx imagetools inspect python:3.11.14-slim-trixie` shows the digest to write after the tag as @sha256:...

FROM python:3.11.14-slim-trixie AS build
ARG GPU=
# pyfarmhash, through TFDV, has no wheel.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY scripts/bootstrap.lock requirements-image.lock ./
# The installer has an environment of its own, so that it stays behind in this build stage. The lock is a part of the
# tests' lock: the same versions, without the tests' tools.
RUN python -m venv /opt/installer \
    && /opt/installer/bin/pip install --no-cache-dir --require-hashes -r bootstrap.lock \
    && python -m venv --without-pip /opt/bertline \
    && /opt/installer/bin/uv pip sync --no-cache --python /opt/bertline/bin/python --compile-bytecode \
        --require-hashes requirements-image.lock
# NVIDIA's libraries in the versions that this TensorFlow names; they are not in the lock.
RUN if [ -n "$GPU" ]; then \
        /opt/installer/bin/uv pip install --no-cache --python /opt/bertline/bin/python -c requirements-image.lock \
            "tensorflow[and-cuda]==2.21.0"; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY bertline bertline
COPY components components
COPY monitoring monitoring
COPY models models
COPY pipeline pipeline
COPY serving serving
COPY streams streams
# uv leaves a lock file that any user may write to.
RUN /opt/installer/bin/uv pip install --no-cache --python /opt/bertline/bin/python --compile-bytecode --no-deps \
        --no-build-isolation . \
    && rm /opt/bertline/.lock

FROM python:3.11.14-slim-trixie
COPY --from=build /opt/bertline /opt/bertline
# Libraries keep caches in the home folder, and a user without a name has none.
# A container's loopback is its own: `serve` listens where its published ports lead.
ENV PATH=/opt/bertline/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 BERTLINE_SERVE_HOST=0.0.0.0
EXPOSE 8500 8501
WORKDIR /work
USER 65532:65532
ENTRYPOINT ["bertline"]
