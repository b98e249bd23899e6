"""The server as a Ray Serve application: replicas on several machines, each with the model of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve

from medsam2.errors import InputError
from medsam2.serving.app import create_app
from medsam2.serving.schemas import sentence_about
from medsam2.serving.service import load_predictor
from medsam2.serving.settings import ServerSettings, load_settings

if TYPE_CHECKING:
    from ray.serve import Application

DEPLOYMENT = "medsam2"
_EVERYWHERE = "0.0.0.0"


class Scale(BaseModel):
    """How much of a cluster the application takes; the entries of `args` in Serve's configuration file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    replicas: int = Field(default=2, ge=1)
    """Each has the model, the queue and the readers of one server."""
    cpus: float = Field(default=2.0, gt=0)
    """That Ray reserves for a replica."""
    gpus: float = Field(default=0.0, ge=0)
    """For a replica; a part of one is shared."""


def application(arguments: Mapping[str, object]) -> Application:
    """Build the application, for `serve run medsam2.serving.platforms.ray_app:application replicas=4`.

    The settings are the variables MEDSAM2_* of each machine's Ray process. A cluster's addresses can be
    reached from other machines, so there must be a key, or MEDSAM2_INSECURE.

    Args:
        arguments: The fields of `Scale`.

    Raises:
        InputError: One of them, or a setting, is not usable.
    """
    try:
        scale = Scale.model_validate(dict(arguments))
    except ValidationError as error:
        known = ", ".join(Scale.model_fields)
        raise InputError(f"{sentence_about(Scale, error)}; the arguments are {known}") from None
    settings = _settings()
    places = settings.queue + 1
    return serve.deployment(
        # A function, so that the weights are loaded where the replica runs and nothing of them is sent.
        serve.ingress(_load_application)(),
        name=DEPLOYMENT,
        num_replicas=scale.replicas,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        max_ongoing_requests=places,
        # Beyond it Serve itself answers 503.
        max_queued_requests=places * scale.replicas,
        graceful_shutdown_timeout_s=settings.answer_timeout_s + 1,
    ).bind()


def _load_application() -> FastAPI:
    """Load the model once, as a replica starts."""
    settings = _settings()
    return create_app(load_predictor(settings), settings)


def _settings() -> ServerSettings:
    return load_settings({"host": _EVERYWHERE})
