"""A proxy before an S3 server that answers as stores do on bad days: seeded, and switched on and off by a trial."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field

#: What it does to a request, beside letting it through.
KINDS = ("500", "503", "reset", "lost answer", "stall", "truncated", "slow")

#: Seconds a stalled request is held, more than the clients of a trial wait for a byte.
STALL_S = 6.0

_CODES = {"500": ("500 Internal Server Error", "InternalError"), "503": ("503 Slow Down", "SlowDown")}
_EXPIRED = "403 Forbidden", "ExpiredToken"


@dataclass
class Weather:
    """What the proxy does now.

    Attributes:
        rates: Share of the requests that meet each kind of fault.
        expired: Access keys that are not taken any more.
        seed: Of the dice.
    """

    rates: dict[str, float] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)
    seed: int = 0


class Proxy:
    """Forwards to an S3 server on this machine; its own address is `endpoint`, the server's `upstream`."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition("//")[2].rpartition(":")
        self.upstream = host, int(port)
        self.met: Counter[str] = Counter()
        self._tasks: set[object] = set()  # asyncio itself keeps no task alive
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)
        self.set(Weather())

    def set(self, weather: Weather) -> None:
        """Change what it does; counts begin anew."""
        self._weather, self._dice = weather, random.Random(weather.seed)
        self.met = Counter()

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        # A process that is killed while it sends leaves resets behind: nothing to report.
        self._loop.set_exception_handler(lambda loop, context: None)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20))
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        self._tasks.add(task := asyncio.current_task())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            if re.search(r"\r\nexpect: *100", head, re.IGNORECASE):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(length[1])) if length else b""
            head = re.sub(r"(?i)\r\n(expect|connection):[^\r]*", "", head)
            await self.answer(head.removesuffix("\r\n") + "Connection: close\r\n\r\n", body, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def answer(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        """Answer one request. Its head ends with the empty line, and asks for one answer only."""
        key = re.search(r"Credential=([^/]+)/", head)
        if key and key[1] in self._weather.expired:
            self.met["expired"] += 1
            writer.write(_refusal(head, *_EXPIRED))
            return
        kind = self._draw()
        self.met[kind] += 1
        if kind in _CODES:
            writer.write(_refusal(head, *_CODES[kind]))
        elif kind == "stall":
            await asyncio.sleep(STALL_S)
            _break_off(writer)
        elif kind == "reset":
            _break_off(writer)
        else:
            answer = await self._ask(head, body)
            if kind == "lost answer":  # the store has done what was asked, and nobody hears of it
                _break_off(writer)
            elif kind == "truncated":
                writer.write(answer[: len(answer) - max(1, len(answer) // 4)])
            elif kind == "slow":
                for start in range(0, len(answer), step := len(answer) // 5 + 1):
                    writer.write(answer[start : start + step])
                    await writer.drain()
                    await asyncio.sleep(0.15)
            else:
                writer.write(answer)
                await writer.drain()

    def _draw(self) -> str:
        dice = self._dice.random()
        for kind, rate in self._weather.rates.items():
            dice -= rate
            if dice < 0:
                return kind
        return "fine"

    async def _ask(self, head: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(head.encode("latin-1") + body)
            return await reader.read(-1)
        finally:
            writer.close()


def _refusal(head: str, status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>{code}, says the proxy</Message></Error>"
    # As S3 does: who asks for the head of an object only gets the status.
    body = "" if head.startswith("HEAD ") else body
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def _break_off(writer: asyncio.StreamWriter) -> None:
    """As a dying server does: a reset, no end of file."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
