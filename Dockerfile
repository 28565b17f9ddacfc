# One image for both sides: the services of docker-compose.yml differ in their command only.
ARG BASE=python:3.11-slim
FROM ${BASE}
# Options for pip, such as an index of CPU-only wheels.
ARG PIP_OPTIONS=""
RUN useradd --create-home hedge
WORKDIR /app
COPY wheels/ /tmp/wheels/
COPY pyproject.toml constraints.txt ./
# The dependencies are a layer of their own: a change of code or models does not install them again.
RUN python3 -m venv /opt/hedge \
    && python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > needs.txt \
    && /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check --find-links /tmp/wheels ${PIP_OPTIONS} \
        -c constraints.txt "setuptools>=77" -r needs.txt
COPY README.md LICENSE ./
COPY proto proto
COPY common common
COPY edge_client edge_client
COPY cloud_server cloud_server
COPY evaluation evaluation
COPY wireless wireless
COPY models models
RUN /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .
ENV PATH=/opt/hedge/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER hedge
CMD ["hedge", "--help"]
