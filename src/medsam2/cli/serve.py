"""`medsam2 serve`: the published contract over HTTP, sessions, and images for viewers."""

from __future__ import annotations

from collections.abc import Sequence

import click

from medsam2.cli.messages import needs_extra, say
from medsam2.cli.options import HeadedCommand, heading, server_model_options
from medsam2.inference.options import RUNTIMES

_HOSTS_OPTION = "--allow-urls"


class HostsCommand(HeadedCommand):
    """A command whose `--allow-urls` is followed by any number of hosts.

    A subclass because click's options take a fixed number of values; every further host gets the option's
    name before click sees it.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each of its hosts, then parse as usual."""
        repeated: list[str] = []
        is_host = False
        for word in args:
            if word.startswith("-"):
                is_host = word == _HOSTS_OPTION
                if not is_host:
                    repeated.append(word)
            else:
                repeated += [_HOSTS_OPTION, word] if is_host else [word]
        if is_host and args[-1] == _HOSTS_OPTION:
            repeated.append(_HOSTS_OPTION)  # click reports what is missing
        return super().parse_args(ctx, repeated)


@click.command(cls=HostsCommand)
@heading("Network address and access")
@click.option(
    "--host", help="Address to listen on; 127.0.0.1 if not given. Any other address needs MEDSAM2_API_KEY."
)
@click.option("--port", type=int, help="Port; 8000 if not given, 0 for any free port.")
@click.option("--insecure", is_flag=True, help="Listen on other addresses without a key.")
@heading("Model")
@server_model_options
@click.option(
    "--runtime", type=click.Choice(RUNTIMES),
    help="What computes the network: PyTorch, or ONNX Runtime on the CPU; torch if not given.",
)  # fmt: skip
@heading("Images")
@click.option(
    _HOSTS_OPTION, multiple=True, metavar="HOST...",
    help="Hosts from which requests may have images downloaded, over https only: "
    "--allow-urls pacs.example.org.",
)  # fmt: skip
@click.option("--folder", metavar="DIR", help="Folder whose scans sessions may open by name.")
@click.option(
    "--studies", metavar="DIR|URL",
    help="Images for viewers with MONAI Label's plug-in: a folder, or the URL of a DICOMweb archive.",
)  # fmt: skip
@heading("Limits")
@click.option("--queue", type=int, metavar="N", help="Number of requests that may wait; 8 if not given.")
@click.option("--max-body", type=int, metavar="MB", help="Largest request, in MiB; 512 if not given.")
def serve(
    host: str | None,
    port: int | None,
    weights: str | None,
    device: str | None,
    precision: str | None,
    runtime: str | None,
    queue: int | None,
    max_body: int | None,
    allow_urls: Sequence[str],
    folder: str | None,
    studies: str | None,
    insecure: bool,
) -> None:
    """Serve segmentation over HTTP.

    The server answers single requests of the published JSON contract at POST /score and /invocations, and
    sessions at /v1/sessions. GET /ping, /healthz, /readyz and /metrics report its state. With --studies it
    also answers MONAI Label's plug-ins for 3D Slicer and OHIF. Every option is also an environment variable
    MEDSAM2_*; an option has priority over its variable. The log is JSON lines on standard error.
    """
    with needs_extra("serve", "serving"):
        from medsam2.serving.monailabel.state import check_studies
        from medsam2.serving.run import listen, run_server
        from medsam2.serving.service import load_predictor
        from medsam2.serving.settings import is_loopback, load_settings

    given = {
        "host": host,
        "port": port,
        "weights": weights,
        "device": device,
        "precision": precision,
        "runtime": runtime,
        "queue": queue,
        "max_body": max_body,
        "allow_urls": tuple(allow_urls) or None,
        "folder": folder,
        "studies": studies,
        "insecure": insecure or None,
    }
    settings = load_settings(given)
    check_studies(settings.studies)
    with listen(settings.host, settings.port) as listener:
        predictor = load_predictor(settings)
        address = f"http://{_in_url(settings.host)}:{listener.getsockname()[1]}"
        say(f"{settings.weights} answers POST /score on {address}; Ctrl-C ends it")
        if settings.studies:
            say(f"viewers with MONAI Label's plug-in reach the studies at {address}")
        if settings.key is None and not is_loopback(settings.host):
            say("warning: whoever reaches this address may use it, there is no key")
        run_server(predictor, settings, listener)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
