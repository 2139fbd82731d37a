"""Load the server with as many GET requests as it answers, and print the number.

Each connection sends its next request as soon as its last response has been
read. At the end all responses are read, so the number of requests is the one
that the server counts. The load takes less CPU time than the server.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time

REQUEST = b"GET /?a=3&b=3 HTTP/1.1\r\nHost: localhost\r\n\r\n"
RESPONSE_END = b"\r\n\r\nSum: 6.0"


def read_response(connection: socket.socket) -> None:
    """Read one response. Raises OSError if it is not the expected one."""
    response = b""
    while not response.endswith(RESPONSE_END):
        more = connection.recv(4096)
        response += more
        if not more or len(response) > 4096:
            raise OSError(f"unexpected response: {response!r}")


def load(host: str, port: int, number: int, seconds: float) -> tuple[int, float]:
    """Send requests over so many connections for so long; return how many were answered, and the time it took."""
    connections = [socket.create_connection((host, port), timeout=60) for _ in range(number)]
    begin = time.monotonic()
    for connection in connections:
        connection.sendall(REQUEST)
    requests = number
    while time.monotonic() < begin + seconds:
        for connection in connections:
            read_response(connection)
            connection.sendall(REQUEST)
        requests += number
    for connection in connections:
        read_response(connection)
    duration = time.monotonic() - begin
    for connection in connections:
        connection.close()
    return requests, duration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", nargs="?", default="localhost", help="name or address of the server (%(default)s)")
    parser.add_argument("--port", metavar="N", type=int, default=8008, help="port of the server (%(default)s)")
    parser.add_argument("--connections", metavar="N", type=int, default=64, help="open at the same time (%(default)s)")
    parser.add_argument("--seconds", metavar="N", type=float, default=10.0, help="length of the load (%(default)g)")
    options = parser.parse_args()
    try:
        requests, seconds = load(options.host, options.port, options.connections, options.seconds)
    except OSError as error:
        sys.exit(f"{options.host}, port {options.port}: {error.strerror or error}")
    print(f"{requests:,} requests in {seconds:.1f} s: {requests / seconds:,.0f}/s")


if __name__ == "__main__":
    main()
