# One image for both sides: the services of docker-compose.yml differ in their command only.
ARG BASE=python:3.11-slim

FROM ${BASE} AS dependencies
# Options for pip, such as an index of CPU-only wheels.
ARG PIP_OPTIONS=""
WORKDIR /app
COPY wheels/ /tmp/wheels/
COPY pyproject.toml constraints.txt ./
# A layer of its own: a change of code or models does not install them again. What is removed is for building against torch.
RUN python3 -m venv /opt/hedge \
    && python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > needs.txt \
    && /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check --find-links /tmp/wheels ${PIP_OPTIONS} \
        -c constraints.txt -r needs.txt \
    && cd /opt/hedge/lib/python3*/site-packages/torch \
    && rm -rf include test share && find bin -type f ! -name torch_shm_manager -delete

FROM dependencies AS code
COPY README.md LICENSE ./
COPY proto proto
COPY common common
COPY edge_client edge_client
COPY cloud_server cloud_server
COPY evaluation evaluation
COPY wireless wireless
COPY models models
RUN /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt "setuptools>=77" \
    && /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --root /tree .

FROM dependencies AS bare
RUN /opt/hedge/bin/pip uninstall --yes --quiet pip setuptools

FROM ${BASE}
RUN useradd --uid 1000 --create-home hedge
COPY --from=bare /opt/hedge /opt/hedge
COPY --from=code /tree/opt/hedge /opt/hedge
ENV PATH=/opt/hedge/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
USER hedge
WORKDIR /home/hedge
CMD ["hedge", "--help"]
