"""What is counted and timed, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Meters:
    """The meters of one server; a registry of their own, so that two servers in a process do not add up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.request_seconds = Histogram(
            "medsam2_request_seconds", "From a request's first byte to its answer's last.", ["path"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.requests = Counter(
            "medsam2_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.row_errors = Counter(
            "medsam2_row_errors", "Rows that got no mask.", ["status"], registry=self.registry
        )
        self.model_seconds = Histogram(
            "medsam2_model_seconds",
            "A row with the model, sessions' slices in between included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.slices = Counter("medsam2_slices", "Slices the model has seen.", registry=self.registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a figure that is kept elsewhere."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
