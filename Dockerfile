# An image with clusterd alone, to build an application's image on:  FROM clusterd  /  COPY . /app  /  CMD ["run", "shop.asgi:app"]
# Runs as any non-root user, on a read-only root with a writable /tmp. No step and nothing in it needs a shell, so a
# base without one will do: it needs Python 3.11 or later as `python3`, with venv and ensurepip.
#   docker build --build-arg BASE=python:3.13-slim --build-arg VERSION=1.2.3 --build-arg REVISION=$(git rev-parse HEAD) .
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY clusterd clusterd
# Two environments: what runs has no pip.
RUN ["python3", "-m", "venv", "/build"]
RUN ["python3", "-m", "venv", "--without-pip", "/opt/clusterd"]
RUN ["/build/bin/python", "-m", "pip", "--python", "/opt/clusterd/bin/python", "install", "--no-cache-dir", ".[fast]"]

FROM ${BASE}
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="clusterd" \
      org.opencontainers.image.description="Runs a service as one primary and N workers that share its ports" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/clusterd /opt/clusterd
# A read-only root takes no bytecode, so nobody need try; what is in /opt/clusterd is compiled.
ENV PATH=/opt/clusterd/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
EXPOSE 8000 9190
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["clusterd", "health", "ready"]
ENTRYPOINT ["clusterd"]
CMD ["run"]
