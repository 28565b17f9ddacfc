# One image for both sides: the services of docker-compose.yml differ in their command only.
ARG BASE=python:3.11-slim
FROM ${BASE}
# Options for pip, such as an index of CPU-only wheels.
ARG PIP_OPTIONS=""
RUN useradd --create-home hedge
WORKDIR /app
COPY wheels/ /tmp/wheels/
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY proto proto
COPY common common
COPY edge_client edge_client
COPY cloud_server cloud_server
COPY evaluation evaluation
COPY models models
RUN python3 -m venv /opt/hedge \
    && /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check --find-links /tmp/wheels ${PIP_OPTIONS} -c constraints.txt .
ENV PATH=/opt/hedge/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER hedge
CMD ["hedge", "--help"]
