# The sidecar: the service and nothing of the trainer (no PyTorch, no compiler, no pip).

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python3 -m venv --without-pip /opt/feedwater \
    && python3 -m venv /opt/pip
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY service service
# pip stays behind in an environment of its own: what is not in the image needs no patch.
RUN /opt/pip/bin/pip --python /opt/feedwater/bin/python3 install --no-cache-dir '.[service,status]' \
    && find /opt/feedwater -depth -type d \( -name tests -o -name test \) -exec rm -rf {} + \
    && /opt/feedwater/bin/feedwater version \
    && /opt/feedwater/bin/feedwater install-client /opt/feedwater/share/feedwater/client \
    && install -d -o 65532 -g 65532 /run/feedwater

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="feedwater" \
      org.opencontainers.image.description="Sidecar that keeps PyTorch DataLoaders from starving accelerators" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/feedwater /opt/feedwater
# The socket's directory; in a pod a volume that the trainer shares lies over it.
COPY --from=build --chown=65532:65532 /run/feedwater /run/feedwater
# In a pod the root file system is read-only: byte code comes with the image or not at all.
ENV PATH=/opt/feedwater/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FEEDWATER_HTTP_PORT=9464
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=2s --start-period=5s \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(f\"http://localhost:{os.environ['FEEDWATER_HTTP_PORT']}/healthz\", timeout=1)"]
ENTRYPOINT ["feedwater"]
CMD ["sidecar"]
