"""Threads for work that cannot be stopped half way, and whoever asked for it waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

_Result = TypeVar("_Result")


class Threads:
    """Some threads that do what is asked for in the order it is asked for."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Do some work; a caller that is cancelled comes back only when none of it is under way any more.

        So what the work changes is never in two hands, however requests end.
        """
        job = self._executor.submit(work)
        result = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not job.cancel():
                while not result.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait((result,))
                if not result.cancelled():
                    result.exception()  # nobody is left to be told
            raise

    def close(self) -> None:
        """Let what is at work come to its end."""
        self._executor.shutdown(wait=True)
