"""A proxy between the server and influxd that fails where networks fail: inside a request, or before the reply.

with Proxy(influx.port) as proxy:
    web = server("--influx", influx.dsn(proxy.port))
    proxy.switch(Fate.DROP)
    proxy.choose = lambda request_line: rng.choice(list(Fate)) if "/write" in request_line else Fate.PASS
    wait_until(lambda: proxy.counts[Fate.DROP])
"""

from __future__ import annotations

import contextlib
import enum
import re
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Callable

from daemons import reset_at_close

PATIENCE_S = 10  # with an influxd that is frozen and takes nothing more


class Fate(enum.Enum):
    """What becomes of a request, and of the connection that it came on."""

    PASS = "request and reply go through"
    CUT = "the head and half of the body go through (without a body, half of the head), then both sides are reset"
    DROP = "the request goes through and is carried out; in place of the reply the client gets a reset"
    REFUSE = "nothing goes through, the client gets a reset"


class Proxy:
    """Listens on 127.0.0.1:`port` and passes on to 127.0.0.1:`target`.

    `choose` is asked for the fate of each request (a connection carries many) with its first line, one call at a time;
    it may be replaced at any time. `counts` says how many requests met each fate; a DROP counts once influxd has
    replied. While influxd is away the client's connections are closed, and nothing is counted.
    """

    def __init__(self, target: int, choose: Callable[[str], Fate] = lambda _: Fate.PASS):
        self.target = target
        self.choose = choose
        self.counts: Counter[Fate] = Counter()
        self._lock = threading.Lock()  # one call of choose(), one change of counts at a time
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._stop, self._stopped = socket.socketpair()  # closing one wakes every thread, which watches the other
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def switch(self, fate: Fate) -> None:
        """One fate for all requests from now on."""
        self.choose = lambda _: fate

    def close(self) -> None:
        """End every connection and every thread."""
        self._stop.close()
        for thread in self._threads:  # the first makes the others, and is over before they are joined
            thread.join()
        self._listener.close()
        self._stopped.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _accept(self) -> None:
        for listener in self._readable(self._listener):
            client, _ = listener.accept()
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _readable(self, *sockets: socket.socket) -> Iterator[socket.socket]:
        """Each of them whenever it can be read, until the proxy is closed."""
        with selectors.DefaultSelector() as selector:
            for one in (*sockets, self._stopped):
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._stopped:
                        return
                    yield key.fileobj

    def _serve(self, client: socket.socket) -> None:
        """One connection of the server's, and one to influxd for it."""
        with client, socket.socket() as influxd, contextlib.suppress(OSError):
            for one in (client, influxd):
                one.settimeout(PATIENCE_S)
            influxd.connect(("127.0.0.1", self.target))
            self._relay(client, influxd)

    def _relay(self, client: socket.socket, influxd: socket.socket) -> None:
        """Pass on requests and replies until a side closes, or until a request's fate is a reset."""
        request, fate = b"", Fate.PASS
        for source in self._readable(client, influxd):
            data = source.recv(65536)
            if not data:
                return
            if source is client:
                request += data
                if not is_whole(request):
                    continue
                fate = self._fate_of(request)
                influxd.sendall(share(request, fate))
                request = b""
                if fate in (Fate.PASS, Fate.DROP):
                    continue
            elif fate is Fate.PASS:
                client.sendall(data)
                continue
            reset_at_close(client)
            reset_at_close(influxd)
            self._count(fate)
            return

    def _fate_of(self, request: bytes) -> Fate:
        with self._lock:
            fate = self.choose(request.partition(b"\r\n")[0].decode())
        if fate is Fate.PASS:
            self._count(fate)
        return fate

    def _count(self, fate: Fate) -> None:
        with self._lock:
            self.counts[fate] += 1


def is_whole(request: bytes) -> bool:
    """Whether the head and as much of a body as it declares are there (the InfluxDB client sends no chunks)."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and len(body) >= int(length[1] if length else 0)


def share(request: bytes, fate: Fate) -> bytes:
    """The part of the request that is passed on."""
    if fate is Fate.REFUSE:
        return b""
    if fate is Fate.CUT:
        head, end, body = request.partition(b"\r\n\r\n")
        return head + end + body[: len(body) // 2] if body else head[: len(head) // 2]
    return request
