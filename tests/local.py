"""Runs a server in this process, where a test can read its state and shorten its time-outs."""

from __future__ import annotations

import socket

from daemons import PATIENCE_S, Server

from webserver_influx import Connection, Counter, SumServer


class Local:
    """Runs a SumServer and its counter, without a reporter."""

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
        """Return what each connection waits for."""
        return [connection.waits_for for connection in self.connections()]
