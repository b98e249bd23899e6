"""The routes of rounds: start one, see how it goes, take its weights into use and put them back."""

from __future__ import annotations

from fastapi import Request
from fastapi import Response
from starlette.responses import JSONResponse

from medsam2.annotation.cases import moment
from medsam2.annotation.improvement import Rounds
from medsam2.annotation.rounds import Round
from medsam2.serving.faults import Fault, shown
from medsam2.serving.projects.json_object import read_object
from medsam2.serving.projects.off_loop import in_thread
from medsam2.serving.service import Service

_ACTIONS = ("start", "go on", "use", "back")
_BEGINNINGS = _ACTIONS[:2]
_BODY_MIB = 1


class RoundRoutes:
    """Each method parses a request, calls the library and encodes what it says."""

    def __init__(self, service: Service, rounds: Rounds) -> None:
        self._service = service
        self._rounds = rounds

    async def show(self, _: Request) -> Response:
        """List the rounds, whose weights are in use, and why no other can be started."""
        return JSONResponse(await in_thread(self._described))

    async def act(self, request: Request) -> Response:
        """Start a round, go on with one, take the weights of one, or go back to those before."""
        asked = await read_object(self._service, request, _BODY_MIB)
        action = asked.text("action", "start")
        if action == "start":
            await in_thread(self._rounds.start, asked.text("user"))
        elif action == "go on":
            await in_thread(self._rounds.go_on, asked.whole("round"))
        elif action == "use":
            await in_thread(self._rounds.use, asked.whole("round"))
        elif action == "back":
            await in_thread(self._rounds.back)
        else:
            raise Fault(422, f"action is {', '.join(_ACTIONS)}, not {shown(action)}")
        return JSONResponse(await in_thread(self._described), 202 if action in _BEGINNINGS else 200)

    def _described(self) -> dict[str, object]:
        return {
            "rounds": [_round(one) for one in self._rounds.all()],
            "current": self._rounds.current,
            "obstacle": self._rounds.obstacle(),
        }


def _round(one: Round) -> dict[str, object]:
    return {
        "round": one.number,
        "state": one.state,
        "user": one.user,
        "num_cases": one.num_cases,
        "started": moment(one.started_ms),
        "ended": None if one.ended_ms is None else moment(one.ended_ms),
        "progress": one.progress,
        "message": one.message,
        "before": one.before,
        "after": one.after,
        "in_use": one.is_in_use,
    }
