# An image with clusterd alone, to build an application's image on:  FROM clusterd  /  COPY . /app  /  CMD ["run", "shop.asgi:app"]
# Runs as any non-root user, on a read-only root with a writable /tmp.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY clusterd clusterd
RUN python3 -m venv /opt/clusterd && /opt/clusterd/bin/python -m pip install --no-cache-dir '.[fast]'

FROM ${BASE}
COPY --from=build /opt/clusterd /opt/clusterd
ENV PATH=/opt/clusterd/bin:$PATH
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["clusterd", "health", "ready"]
ENTRYPOINT ["clusterd"]
CMD ["run"]
