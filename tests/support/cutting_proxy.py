"""A TCP proxy that loses answers: the request arrives, the connection ends before the answer comes back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType


class CuttingProxy:
    """Between a client and 127.0.0.1:`target`; to be entered by `async with`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._marker: bytes | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def lose_the_answer_to(self, marker: bytes) -> None:
        """The next request that contains `marker` is carried out and never answered."""
        self._marker = marker

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        back = asyncio.create_task(_pump(up_reader, writer))
        try:
            while data := await reader.read(65536):
                lost = self._marker is not None and self._marker in data
                if lost:
                    self._marker = None
                    back.cancel()
                    await asyncio.gather(back, return_exceptions=True)
                up_writer.write(data)
                await up_writer.drain()
                if lost:
                    await up_reader.read(1)  # it has been carried out
                    self.cuts += 1
                    return
        except OSError:
            return
        finally:
            back.cancel()
            for end in (writer, up_writer):
                with suppress(OSError):
                    end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
