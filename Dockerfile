# prelabel with Ray, for Kubernetes (jobs/rayjob.yaml) or any other container runtime:
#
#   docker build --tag prelabel:latest .                        # CPU
#   docker build --tag prelabel:latest --build-arg GPU=1 .      # GPU: brings CUDA's libraries; the host has the driver
#   docker run --rm prelabel:latest prelabel demo --to /tmp/demo
#
# requirements.lock pins every package; requirements-gpu.lock pins the same versions, and CUDA's libraries.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY prelabel prelabel
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:${PYTHON}-slim-bookworm
ARG GPU=""
# KubeRay probes Ray's health with wget, and stops containers through tini if it is installed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini wget \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.lock requirements-gpu.lock /locks/
COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir --constraint "/locks/requirements${GPU:+-gpu}.lock" \
    "$(echo /wheel/*.whl)[s3,gcs,azure,heif,evaluate${GPU:+,gpu}]" \
    && rm -rf /wheel
# Credentials for object storage come from the pod; nothing here needs root.
RUN useradd --create-home --uid 1000 prelabel
USER prelabel
WORKDIR /home/prelabel
ENV RAY_USAGE_STATS_ENABLED=0
ENTRYPOINT ["tini", "--"]
CMD ["prelabel", "--help"]
