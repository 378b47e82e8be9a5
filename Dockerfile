# A server on the CPU. Build the wheel first: pip wheel --no-deps --wheel-dir dist . && docker build -t resnetlab .
#
#   docker run --read-only --tmpfs /tmp --user 12345 -p 127.0.0.1:8000:8000 \
#     -v "$PWD/best.safetensors:/model.safetensors:ro" resnetlab /model.safetensors
FROM python:3.12-slim

COPY dist/resnetlab-*.whl /tmp/
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
      "resnetlab[serve] @ file://$(ls /tmp/resnetlab-*.whl)" \
    && rm /tmp/resnetlab-*.whl

# No name, no home, no right to write but in /tmp, where the workers keep their counters.
USER 65532:65532
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz')"]
ENTRYPOINT ["resnetlab", "serve", "--host", "0.0.0.0"]
