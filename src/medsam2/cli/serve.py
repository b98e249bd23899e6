"""`medsam2 serve`: the published contract over HTTP, sessions, and studies for viewers."""

from __future__ import annotations

from collections.abc import Sequence

import click

from medsam2.cli.messages import say
from medsam2.cli.options import precision_option
from medsam2.errors import InputError

_HOSTS_OPTION = "--allow-urls"


class HostsCommand(click.Command):
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
            repeated.append(_HOSTS_OPTION)  # click says what is missing
        return super().parse_args(ctx, repeated)


@click.command(cls=HostsCommand)
@click.option("--host", help="Address to listen on; 127.0.0.1 if not given. Others need MEDSAM2_API_KEY.")
@click.option("--port", type=int, help="Port; 8000 if not given, 0 for a free one.")
@click.option("--weights", help="Name or file; compact if not given.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@precision_option
@click.option("--queue", type=int, metavar="N", help="Requests that may wait; 8 if not given.")
@click.option("--max-body", type=int, metavar="MB", help="Largest request in MiB; 512 if not given.")
@click.option(_HOSTS_OPTION, multiple=True, metavar="HOST...", help="Fetch images by https from these hosts.")
@click.option("--folder", metavar="DIR", help="Let sessions open the scans below this folder.")
@click.option(
    "--studies",
    metavar="DIR|URL",
    help="Let viewers with MONAI Label's plug-in work on a folder of images, or a DICOMweb archive.",
)
@click.option("--insecure", is_flag=True, help="Serve other machines without a key.")
@click.pass_context
def serve(
    ctx: click.Context,
    host: str | None,
    port: int | None,
    weights: str | None,
    device: str | None,
    precision: str,
    queue: int | None,
    max_body: int | None,
    allow_urls: Sequence[str],
    folder: str | None,
    studies: str | None,
    insecure: bool,
) -> None:
    """Answer the published JSON contract over HTTP, and hold sessions.

    POST /score or /invocations; sessions at /v1/sessions; GET /ping, /healthz, /readyz and /metrics. With
    --studies also what the plug-ins of MONAI Label for 3D Slicer and OHIF ask. Every limit is also a
    variable MEDSAM2_*; what is given here counts more. The log is JSON lines on standard error.
    """
    try:
        from medsam2.serving.monailabel.dialect import check_studies
        from medsam2.serving.run import listen, run_server
        from medsam2.serving.settings import is_loopback, load_settings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("medsam2"):
            raise
        raise InputError(f"serving needs the package {error.name}: pip install 'medsam2[serve]'") from error
    from medsam2.inference.predictor import load

    is_default = ctx.get_parameter_source("precision") is click.core.ParameterSource.DEFAULT
    given = {
        "host": host,
        "port": port,
        "weights": weights,
        "device": device,
        "precision": None if is_default else precision,
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
        predictor = load(settings.weights, device=settings.device, precision=settings.precision)
        address = f"http://{_in_url(settings.host)}:{listener.getsockname()[1]}"
        say(f"{settings.weights} answers POST /score on {address}; Ctrl-C ends it")
        if settings.studies:
            say(f"viewers with MONAI Label's plug-in reach the studies at {address}")
        if settings.key is None and not is_loopback(settings.host):
            say("warning: whoever reaches this address may use it, there is no key")
        run_server(predictor, settings, listener)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
