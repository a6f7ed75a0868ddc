# The sidecar: the service and nothing of the trainer (no PyTorch, no compiler, no pip).

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python3 -m venv --without-pip /opt/feedwater \
    && python3 -m venv /opt/pip
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY service service
# pip stays behind in its own environment: what is not in the image needs no patch.
RUN /opt/pip/bin/pip --python /opt/feedwater/bin/python3 install --no-cache-dir --no-compile '.[service]' \
    && find /opt/feedwater -depth \( -name tests -o -name test -o -name __pycache__ \) -type d -exec rm -rf {} + \
    && find /opt/feedwater -name '*.so*' -type f -exec strip --strip-unneeded {} + 2>/dev/null \
    ; /opt/feedwater/bin/feedwater --version

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="feedwater" \
      org.opencontainers.image.description="Sidecar that keeps PyTorch DataLoaders from starving accelerators" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/feedwater /opt/feedwater
# The root file system is read-only in a pod: there is nowhere to write byte code to.
ENV PATH=/opt/feedwater/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FEEDWATER_HTTP_PORT=9108
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
EXPOSE 9108
HEALTHCHECK --interval=10s --timeout=2s --start-period=5s \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['FEEDWATER_HTTP_PORT']}/healthz\", timeout=1)"]
ENTRYPOINT ["feedwater"]
CMD ["sidecar"]
