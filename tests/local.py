"""A server in this process, where a test can look inside, and shorten what is too long to wait for."""

from __future__ import annotations

import socket

from daemons import PATIENCE_S, Server

from webserver_influx import Connection, Counter, SumServer


class Local:
    """A server in this process."""

    raw = Server.raw

    def __init__(self, listener: socket.socket) -> None:
        self.counter = Counter(":memory:", 1)
        self.server = SumServer(listener, self.counter.cells)
        self.port = self.server.server_address[1]
        self.server.start()

    def connect(self, timeout: float = PATIENCE_S, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((host, self.port), timeout)

    def close(self) -> None:
        if self.server.socket.fileno() >= 0:
            self.server.stop()
        self.counter.close()

    def connections(self) -> list[Connection]:
        return [connection for thread in self.server.threads for connection in list(thread.connections.values())]

    def awaited(self) -> list[str]:
        """What each connection waits for."""
        return [connection.awaits for connection in self.connections()]
