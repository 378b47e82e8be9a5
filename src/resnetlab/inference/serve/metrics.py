"""Metrics of the server in the text format of Prometheus."""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where the workers of one server keep their numbers; read by prometheus_client


class Metrics:
    """Counts of one server; with several workers, `page` shows their sums."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("resnetlab_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("resnetlab_request_seconds", "Time to an answer.", ["route"], registry=self.registry)
        self.images = Counter("resnetlab_images", "Images predicted.", ["model"], registry=self.registry)
        self.batches = Histogram(
            "resnetlab_batch_images",
            "Images that went through the network at once.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self.compute = Histogram(
            "resnetlab_compute_seconds", "Time to compute a batch.", ["model"], registry=self.registry
        )
        self.waiting = Gauge(
            "resnetlab_waiting_images",
            "Images that are accepted and not answered.",
            multiprocess_mode="livesum",
            registry=self.registry,
        )

    def on_batch(self, name: str, images: int, seconds: float) -> None:
        self.images.labels(name).inc(images)
        self.batches.labels(name).observe(images)
        self.compute.labels(name).observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """Return the metrics with their content type."""
        if os.environ.get(FOLDER):
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry), CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
