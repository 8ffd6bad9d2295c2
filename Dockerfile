# The service for one NVIDIA GPU (target gpu) or for CPUs (target cpu): docs/docker.md.

# Both targets take the same base: ONNX Runtime, CUDA and cuDNN are all Python packages. Any glibc
# distribution with python3 3.11 or newer and its venv module will do; a digest pins it fully.
ARG BASE=python:3.12-slim-bookworm


FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# pip and the build backend live apart, so that what is shipped has neither.
RUN python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/adaresnet


FROM build AS dependencies-cpu
COPY requirements/serve-cpu.txt ./
# Wheels only: there is no compiler here, and nothing of a package's own runs while it is installed.
RUN /opt/build/bin/pip --python /opt/adaresnet/bin/python3 \
    install --only-binary :all: --require-hashes -r serve-cpu.txt


FROM build AS dependencies-gpu
COPY requirements/serve-gpu.txt ./
RUN /opt/build/bin/pip --python /opt/adaresnet/bin/python3 \
    install --only-binary :all: --require-hashes -r serve-gpu.txt


# Apart from the dependencies, so that a change of the code costs kilobytes and not gigabytes.
FROM build AS project
COPY requirements/build.txt ./
RUN /opt/build/bin/pip install --only-binary :all: --require-hashes -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY training training
# The wheel wants a folder of models; here it stays empty, for the image has its own at /models.
RUN mkdir models \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/adaresnet/bin/python3 install --no-deps --no-index dist/*.whl


FROM build AS models
COPY models /models
# A checkout made under a strict umask would be unreadable for the user of the service.
RUN chmod -R a+rX /models


FROM ${BASE} AS serve
ARG BASE
LABEL org.opencontainers.image.title="AdaResNet Serving" \
      org.opencontainers.image.description="Image classification over HTTP: adaptive residual networks on ONNX Runtime." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}"
# CUDA keeps compiled kernels under HOME; with a read-only root, /tmp is all that can be written.
ENV PATH=/opt/adaresnet/bin:$PATH \
    HOME=/tmp \
    ADARESNET_HOST=0.0.0.0 \
    ADARESNET_PORT=8000 \
    ADARESNET_MODELS=/models
WORKDIR /
EXPOSE 8000
# A number, so that an orchestrator can see without a look inside that it isn't root.
USER 10001:10001
STOPSIGNAL SIGTERM
# http.client, because urllib would send this through a proxy that is set in the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('localhost', int(os.environ.get('ADARESNET_ADMIN_PORT') or os.environ['ADARESNET_PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["adaresnet"]
CMD ["serve"]


FROM serve AS cpu
ENV ADARESNET_DEVICE=cpu
COPY --from=dependencies-cpu /opt/adaresnet /opt/adaresnet
COPY --from=project /opt/adaresnet/lib /opt/adaresnet/lib
COPY --from=project /opt/adaresnet/bin/adaresnet /opt/adaresnet/bin/adaresnet
COPY --from=models /models /models


FROM serve AS gpu
# Not auto: who takes this image wants the GPU, and should hear of it when there is none to be used.
# Older container toolkits give an image only nvidia-smi unless it asks for compute.
ENV ADARESNET_DEVICE=cuda \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=dependencies-gpu /opt/adaresnet /opt/adaresnet
COPY --from=project /opt/adaresnet/lib /opt/adaresnet/lib
COPY --from=project /opt/adaresnet/bin/adaresnet /opt/adaresnet/bin/adaresnet
COPY --from=models /models /models
