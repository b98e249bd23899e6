"""Work that cannot be stopped half way, asked for by those who can."""

from __future__ import annotations

import asyncio
import threading

import pytest

from medsam2.serving.service import Threads


@pytest.fixture
def thread():
    threads = Threads(1, "medsam2-test")
    yield threads
    threads.close()


def test_work_is_done_in_the_order_it_is_asked_for(thread: Threads) -> None:
    done: list[int] = []

    async def ask() -> list[None]:
        return await asyncio.gather(*(thread.run(lambda n=n: done.append(n)) for n in range(20)))

    asyncio.run(ask())
    assert done == list(range(20))


def test_what_fails_is_told(thread: Threads) -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(thread.run(lambda: 1 // 0))


@pytest.mark.parametrize("times", [1, 3])
def test_who_is_cancelled_comes_back_when_the_work_is_over(thread: Threads, times: int) -> None:
    begun, may_end, is_over = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(60)
        is_over.set()

    async def cancel() -> None:
        task = asyncio.create_task(thread.run(work))
        await asyncio.to_thread(begun.wait, 60)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.02)
            assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_over.is_set()

    asyncio.run(cancel())


def test_work_that_has_not_begun_is_never_done(thread: Threads) -> None:
    begun, may_end = threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        begun.set()
        may_end.wait(60)
        done.append("first")

    async def cancel() -> None:
        running = asyncio.create_task(thread.run(first))
        await asyncio.to_thread(begun.wait, 60)
        waiting = asyncio.create_task(thread.run(lambda: done.append("second")))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        may_end.set()
        await running

    asyncio.run(cancel())
    assert done == ["first"]
