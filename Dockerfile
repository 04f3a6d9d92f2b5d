# One image for setup and every service; the command names which. No secrets in it: settings come by environment.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements.lock ./
# Everything locked is fetched and checked against its hashes; only what the services need is installed from it.
RUN pip download --no-cache-dir --quiet --require-hashes --dest /wheels --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY clickledger clickledger
COPY enricher enricher
COPY ingest_api ingest_api
COPY reporting reporting
COPY shared shared
COPY sink sink
RUN python -m venv /app && /app/bin/pip install --no-cache-dir --quiet --no-index --find-links /wheels .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin clickledger \
    && install --directory --owner clickledger --group clickledger /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CLICKLEDGER_DATA=/data \
    CLICKLEDGER_HEALTH_HOST=0.0.0.0 \
    CLICKLEDGER_API_HEALTH_PORT=9100 \
    CLICKLEDGER_ENRICHER_HEALTH_PORT=9100 \
    CLICKLEDGER_SINK_HEALTH_PORT=9100 \
    CLICKLEDGER_REPORTING_HEALTH_PORT=9100 \
    CLICKLEDGER_DELIVERER_HEALTH_PORT=9100
USER clickledger
VOLUME /data
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9100/readyz', timeout=2)"]
ENTRYPOINT ["clickledger"]
CMD ["--help"]
