# One image for both sides: the services of docker-compose.yml differ in their command only.
ARG BASE=python:3.11-slim

# llama.cpp for any x86-64 with AVX2, and without OpenMP, which the base image lacks: from wheels/, or compiled here.
FROM ${BASE} AS llama
ARG CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF"
WORKDIR /tmp
COPY wheels/ /tmp/wheels/
COPY constraints.txt ./
RUN mkdir /llama && if ls wheels/llama_cpp_python-*.whl; then cp wheels/llama_cpp_python-*.whl /llama; else \
    apt-get update && apt-get install --yes --no-install-recommends g++ cmake make && python3 -m venv build \
    && build/bin/pip wheel --no-cache-dir --no-deps --disable-pip-version-check -w /llama -c constraints.txt llama-cpp-python; fi

FROM ${BASE} AS dependencies
# What runs models: torch for folders, llama for .gguf files.
ARG EXTRAS="torch llama"
# Options for pip, such as an index of CPU-only wheels.
ARG PIP_OPTIONS=""
WORKDIR /app
COPY --from=llama /llama /tmp/llama
COPY wheels/ /tmp/wheels/
COPY pyproject.toml constraints.txt ./
# A layer of its own: a change of code or models does not install them again. What is removed is for building against torch.
RUN python3 -m venv /opt/hedge \
    && python3 -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *(need for extra in sys.argv[1:] for need in p['optional-dependencies'][extra]), sep='\n')" ${EXTRAS} > needs.txt \
    && /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check --find-links /tmp/wheels --find-links /tmp/llama ${PIP_OPTIONS} \
        -c constraints.txt -r needs.txt \
    && if cd /opt/hedge/lib/python3*/site-packages/torch 2>/dev/null; then \
        rm -rf include test share && find bin -type f ! -name torch_shm_manager -delete; fi

FROM dependencies AS code
COPY README.md LICENSE ./
COPY proto proto
COPY common common
COPY edge_client edge_client
COPY cloud_server cloud_server
COPY evaluation evaluation
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
