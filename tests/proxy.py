"""A proxy between the server and influxd that fails as networks do: within a request, or before the response.

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

PATIENCE_S = 10  # time-out of its sockets: a frozen influxd receives nothing


class Fate(enum.Enum):
    """What the proxy does with a request and its connection."""

    PASS = "forward the request and the response"
    CUT = "forward the head and half of the body (without a body, half of the head), then reset both connections"
    DROP = "forward the request, wait for the response, then reset both connections"
    REFUSE = "forward nothing, and reset both connections"


class Proxy:
    """Listens on 127.0.0.1:`port` and forwards to 127.0.0.1:`target`.

    `choose` is called with the first line of each request, one call at a time, and returns its fate; a test may replace
    it at any time. `counts` has the number of requests of each fate; a DROP is counted when influxd has responded.
    While influxd does not run, the proxy closes its clients' connections and counts nothing.
    """

    def __init__(self, target: int, choose: Callable[[str], Fate] = lambda _: Fate.PASS):
        self.target = target
        self.choose = choose
        self.counts: Counter[Fate] = Counter()
        self.lock = threading.Lock()  # guards counts, and the calls of choose()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.stop, self.stopped = socket.socketpair()  # every thread watches the second; closing the first wakes it
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def switch(self, fate: Fate) -> None:
        """Choose this fate for all requests from now on."""
        self.choose = lambda _: fate

    def close(self) -> None:
        """End every connection and every thread."""
        self.stop.close()
        for thread in self.threads:  # the first one starts the others, so it is joined first
            thread.join()
        self.listener.close()
        self.stopped.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def accept(self) -> None:
        for listener in self.readable(self.listener):
            client, _ = listener.accept()
            self.threads.append(threading.Thread(target=self.serve, args=(client,)))
            self.threads[-1].start()

    def readable(self, *sockets: socket.socket) -> Iterator[socket.socket]:
        """Yield each of these sockets whenever it can be read, until the proxy is closed."""
        with selectors.DefaultSelector() as selector:
            for one in (*sockets, self.stopped):
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.stopped:
                        return
                    yield key.fileobj

    def serve(self, client: socket.socket) -> None:
        """Open a connection to influxd for a connection of the server, and relay between the two."""
        with client, socket.socket() as influxd, contextlib.suppress(OSError):
            for one in (client, influxd):
                one.settimeout(PATIENCE_S)
            influxd.connect(("127.0.0.1", self.target))
            self.relay(client, influxd)

    def relay(self, client: socket.socket, influxd: socket.socket) -> None:
        """Forward requests and responses until one side closes, or until a request's fate is a reset."""
        request, fate = b"", Fate.PASS
        for source in self.readable(client, influxd):
            data = source.recv(65536)
            if not data:
                return
            if source is client:
                request += data
                if not is_whole(request):
                    continue
                fate = self.fate_of(request)
                influxd.sendall(share(request, fate))
                request = b""
                if fate in (Fate.PASS, Fate.DROP):
                    continue
            elif fate is Fate.PASS:
                client.sendall(data)
                continue
            reset_at_close(client)
            reset_at_close(influxd)
            self.count(fate)
            return

    def fate_of(self, request: bytes) -> Fate:
        with self.lock:
            fate = self.choose(request.partition(b"\r\n")[0].decode())
        if fate is Fate.PASS:
            self.count(fate)
        return fate

    def count(self, fate: Fate) -> None:
        with self.lock:
            self.counts[fate] += 1


def is_whole(request: bytes) -> bool:
    """Return whether a request has its whole head and body (the InfluxDB client sends a Content-Length)."""
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and len(body) >= int(length[1] if length else 0)


def share(request: bytes, fate: Fate) -> bytes:
    """Return the part of the request that the proxy forwards."""
    if fate is Fate.REFUSE:
        return b""
    if fate is Fate.CUT:
        head, end, body = request.partition(b"\r\n\r\n")
        return head + end + body[: len(body) // 2] if body else head[: len(head) // 2]
    return request
