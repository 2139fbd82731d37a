"""A server in this process, where a test can look inside, and shorten what is too long to wait for."""

from __future__ import annotations

import socket

from daemons import PATIENCE_S, Server, wait_until

from webserver_influx import Counter, SumServer


class Local:
    """A server in this process."""

    raw = Server.raw

    def __init__(self, listener: socket.socket) -> None:
        self.counter = Counter(":memory:")
        self.server = SumServer(listener, self.counter)
        self.port = self.server.server_address[1]
        self.server.start()

    def connect(self, timeout: float = PATIENCE_S, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((host, self.port), timeout)

    def close(self) -> None:
        if self.server.socket.fileno() >= 0:
            self.server.stop()
        wait_until(lambda: not self.server.handlers, what="the connections to end")
        self.counter.close()
