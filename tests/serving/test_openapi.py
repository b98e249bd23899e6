"""Thousands of requests made from the server's own description of itself, right and wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from live_server import KEY, live_server

# Not asked: whether each table that fits the description is taken. Images are texts there; few texts are one.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)


def test_figures_are_described_as_the_text_they_are(server) -> None:
    described = server.client.get("/openapi.json").json()["paths"]["/metrics"]["get"]["responses"]["200"]
    assert list(described["content"]) == ["text/plain"]
    assert server.client.get("/metrics").headers["content-type"].startswith("text/plain")


@pytest.mark.slow
def test_the_server_keeps_to_its_description(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="needs the extra dev")
    with live_server() as live:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{live.port}/openapi.json"),
            *("--header", f"Authorization: Bearer {KEY}", "--checks", ",".join(CHECKS), "--seed", "1"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "150", "--no-color"),
            *("--suppress-health-check", "all", "--generation-database", "none"),
        ]
        ran = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout
        assert live.is_at_rest()
        assert live.client.get("/readyz").status_code == 200
