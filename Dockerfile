# The service without PyTorch, serving a model that a stage with PyTorch has exported. `make image` builds it and prints
# its sizes. Any builder does: nothing here asks for BuildKit. PROVIDER=cuda makes the variant for NVIDIA's GPUs.
ARG BASE=python:3.11-slim
FROM ${BASE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

# What to install, out of pyproject.toml: the layers that do it depend on these lists, not on the rest of that file.
FROM builder AS requirements
COPY pyproject.toml .
RUN python -c 'import pathlib, tomllib; \
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]; \
plain, extras = project["dependencies"], project["optional-dependencies"]; \
rest = [line for line in plain if not line.startswith(("onnxruntime", "tokenizers"))]; \
alone = [line for line in plain if line.startswith("tokenizers")]; \
cpu = [line for line in plain if line.startswith("onnxruntime")]; \
lists = {"cpu": rest + cpu + extras["grpc"], "cuda": rest + extras["gpu"] + extras["grpc"], "alone": alone, "export": plain + extras["export"]}; \
pathlib.Path("/requirements").mkdir(); \
[pathlib.Path("/requirements", name).write_text("\n".join(lines)) for name, lines in lists.items()]'

FROM builder AS export
ARG TORCH=torch==2.13.0
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -q "${TORCH}+cpu" 2>/dev/null || pip install -q "${TORCH}" --index-url "${TORCH_CPU_INDEX}"
COPY --from=requirements /requirements/export requirements.txt
RUN pip install -q -r requirements.txt
WORKDIR /source
COPY export export
# Not --default: where the weights cannot be had, no image is better than one with another model.
RUN python -m export --source minilm --models /models

# One of two lists: onnxruntime and onnxruntime-gpu are the same package (docs/decisions/0005-gpu-wheel.md).
FROM builder AS runtime
ARG PROVIDER=cpu
COPY --from=requirements /requirements/${PROVIDER} requirements.txt
COPY --from=requirements /requirements/alone alone.txt
# tokenizers alone: it asks for the client of a model hub, 26 MB that could only fetch. Packages' own tests are 18 MB.
RUN pip install -q --ignore-installed --prefix /runtime -r requirements.txt \
 && pip install -q --ignore-installed --prefix /runtime --no-deps -r alone.txt \
 && find /runtime -type d -name tests -prune -exec rm -r {} +

FROM builder AS service
WORKDIR /source
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY service service
COPY export export
# The wheel holds the exporter too, which could not run without PyTorch.
RUN pip install -q --ignore-installed --no-deps --prefix /service . \
 && rm -r /service/lib/python3*/site-packages/export /service/bin/glassblock-export

FROM ${BASE}
ARG PROVIDER=cpu
LABEL org.opencontainers.image.title="Glassblock" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.description="Serve transformer blocks you can see through" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN python -B -m pip uninstall -qy --root-user-action=ignore setuptools wheel pip && rm -r /usr/local/lib/python3*/ensurepip
COPY --from=runtime /runtime /usr/local
COPY --from=export /models /models
COPY --from=service /service /usr/local
# Proves the image before there is one, on the CPU. As root, it leaves the bytecode of all that a start imports: the base
# comes without, and a read-only container would compile it at every start.
RUN GLASSBLOCK_MODELS=/models glassblock-serve check
ENV GLASSBLOCK_MODELS=/models GLASSBLOCK_HTTP_HOST=0.0.0.0 GLASSBLOCK_PROVIDER=${PROVIDER} PYTHONDONTWRITEBYTECODE=1
# Memory in pages of 2 MiB: long sequences take a fifth less time.
ENV GLIBC_TUNABLES=glibc.malloc.hugetlb=1
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
# Asks where the server listens; 0.0.0.0 and :: lead back to the machine itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import http.client, os; \
host, port = os.environ.get('GLASSBLOCK_HTTP_HOST') or 'localhost', int(os.environ.get('GLASSBLOCK_HTTP_PORT', 8000)); \
connection = http.client.HTTPConnection(host, port, timeout=4); \
connection.request('GET', '/readyz'); os._exit(connection.getresponse().status != 200)"]
ENTRYPOINT ["glassblock-serve"]
