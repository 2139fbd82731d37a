"""The peers of the benchmark.

    python peers.py NAME PORT       # serves until it is killed

Each adds up the numbers of a query string, or those of a JSON object in a POST, and answers `Sum: 6.0` as text/plain.
*The same sum in each*: the servers find the numbers, add up and count with the functions of webserver_influx.py and a
lock, so that servers are compared and not sums. *As their documentation says*: the frameworks do it in their own way,
and count nothing; where one does not parse the query or the JSON itself, urllib.parse and json do.

Each is one process that serves (Granian and gunicorn have one more, idle, that watches over it), without an access log,
with a backlog and an idle time-out that drop no connection of the benchmark.

Imports are inside the functions, so that a peer that is not installed stops nobody else.
"""

import json
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qsl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import webserver_influx as ours

HOST = "127.0.0.1"
TEXT = "text/plain; charset=utf-8"
BACKLOG = 4096  # connections not yet accepted; as many as Linux admits by default
IDLE_S = 300  # seconds; longer than the benchmark leaves a connection idle
CONNECTIONS = 60_000  # more than the benchmark opens

# --- the same sum in each, for bytes


class Count:
    """How many requests came, exactly, whoever counts them."""

    def __init__(self):
        self.lock, self.requests = threading.Lock(), 0

    def increment(self):
        with self.lock:
            self.requests += 1


increment = Count().increment


def answer_query(query):
    increment()
    return ours.sum_text(ours.query_values(query))


def answer_json(body):
    increment()
    return ours.sum_text(ours.json_values(body))


# WSGI and ASGI as the servers speak them


def wsgi(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        reply = answer_json(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    else:
        reply = answer_query(environ["QUERY_STRING"].encode("latin-1"))
    reply = reply.encode()
    start_response("200 OK", [("Content-Type", TEXT), ("Content-Length", str(len(reply)))])
    return [reply]


async def asgi(scope, receive, send):
    if scope["method"] == "POST":
        body, more = b"", True
        while more:
            event = await receive()
            body += event["body"]
            more = event.get("more_body")
        reply = answer_json(body)
    else:
        reply = answer_query(scope["query_string"])
    reply = reply.encode()
    headers = [(b"content-type", TEXT.encode()), (b"content-length", b"%d" % len(reply))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply})


def bjoern(port):
    import bjoern

    bjoern.run(wsgi, HOST, port, listen_backlog=BACKLOG)


def serve_fastpysgi(app, port):
    import fastpysgi

    fastpysgi.server.backlog = BACKLOG
    fastpysgi.server.tcp_nodelay = 1
    fastpysgi.server.lifespan = 0
    fastpysgi.run(app, HOST, port)


def fastpysgi(port):
    serve_fastpysgi(wsgi, port)


def fastpysgi_asgi(port):
    serve_fastpysgi(asgi, port)


def serve_granian(port, *options):
    """Granian with the settings of its own benchmarks: one worker, HTTP/1 only, no websockets, uvloop."""
    from granian.cli import cli

    always = f"--host={HOST} --port={port} --http=1 --no-ws --loop=uvloop --http1-pipeline-flush --log-level=warning"
    cli([*always.split(), f"--backlog={BACKLOG}", f"--backpressure={CONNECTIONS}", *options])


def granian(port):
    """RSGI, its own and fastest interface."""
    serve_granian(port, "--interface=rsgi", "--runtime-mode=mt", "peers:rsgi")


async def rsgi(scope, protocol):
    reply = answer_json(await protocol()) if scope.method == "POST" else answer_query(scope.query_string.encode())
    protocol.response_str(200, [("content-type", TEXT)], reply)


def granian_asgi(port):
    serve_granian(port, "--interface=asginl", "--runtime-mode=st", "peers:asgi")


def granian_wsgi(port):
    serve_granian(port, "--interface=wsgi", "--runtime-mode=mt", "--blocking-threads=1", "peers:wsgi")


def serve_uvicorn(app, port):
    """uvicorn with the parts that its documentation names for speed: uvloop and httptools."""
    import uvicorn

    uvicorn.run(
        app,
        host=HOST,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
    )


def uvicorn(port):
    serve_uvicorn(asgi, port)


def socketify(port):
    """The body comes by `on_data`, because `get_json` crashes under load."""
    from socketify import App, AppListenOptions

    def get(response, request):
        query = request.get_full_url().partition("?")[2]
        response.send(answer_query(query.encode()), TEXT.encode())

    def post(response, request):
        body = bytearray()

        def take(response, chunk, is_end):
            body.extend(chunk or b"")
            if is_end:
                response.cork_send(answer_json(bytes(body)), TEXT.encode())

        response.on_data(take)

    app = App()
    app.get("/", get)
    app.post("/", post)
    app.listen(AppListenOptions(port=port, host=HOST))
    app.run()


def aiohttp(port):
    """On uvloop, as its deployment guide has it."""
    import uvloop
    from aiohttp import web

    async def get(request):
        return web.Response(text=answer_query(request.rel_url.raw_query_string.encode()))

    async def post(request):
        return web.Response(text=answer_json(await request.read()))

    app = web.Application()
    app.add_routes([web.get("/", get), web.post("/", post)])
    web.run_app(
        app,
        host=HOST,
        port=port,
        access_log=None,
        print=None,
        backlog=BACKLOG,
        keepalive_timeout=IDLE_S,
        loop=uvloop.new_event_loop(),
    )


def blacksheep(port):
    """On Granian, which its documentation calls the fastest for it."""
    serve_granian(port, "--interface=asgi", "--runtime-mode=st", "--factory", "peers:blacksheep_app")


def blacksheep_app():
    from blacksheep import Application, Request, get, post, text

    app = Application()

    @get("/")
    async def sum_query(request: Request):
        return text(answer_query(request.url.query))

    @post("/")
    async def sum_body(request: Request):
        return text(answer_json(await request.read()))

    return app


def robyn(port):
    """What `--fast` sets (no log below WARNING), but one process. It shows no query, only what it has read in it."""
    sys.argv[1:] = ["--processes=1", "--workers=1", "--log-level=WARNING", "--disable-openapi"]
    from robyn import Headers, Request, Response, Robyn

    app = Robyn(__file__)
    headers = Headers({"Content-Type": TEXT})

    @app.get("/")
    def get(request: Request):
        increment()
        return Response(200, headers, ours.sum_text([value for _, value in request.query_params.multi_items()]))

    @app.post("/")
    def post(request: Request):
        body = request.body
        return Response(200, headers, answer_json(body.encode() if isinstance(body, str) else body))

    app.start(host=HOST, port=port, keep_alive_timeout=IDLE_S)


def waitress(port):
    """poll(2), because select(2) ends at descriptor 1024; 16 threads, because the default 4 starve its main loop."""
    import logging

    import waitress

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    waitress.serve(
        wsgi,
        host=HOST,
        port=port,
        backlog=BACKLOG,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_S,
        asyncore_use_poll=True,
        threads=16,
        _quiet=True,
    )


def cheroot(port):
    from cheroot.wsgi import Server

    server = Server((HOST, port), wsgi, request_queue_size=BACKLOG, timeout=IDLE_S)
    server.keep_alive_conn_limit = None  # the default closes the 11th
    server.start()


def serve_gunicorn(app, port):
    """One gunicorn worker with threads, keep-alive and its C parser."""
    from gunicorn.app.wsgiapp import run

    sys.argv[1:] = [
        f"--bind={HOST}:{port}",
        "--worker-class=gthread",
        "--threads=4",
        f"--keep-alive={IDLE_S}",
        f"--backlog={BACKLOG}",
        f"--worker-connections={CONNECTIONS}",
        "--http-parser=fast",
        "--worker-tmp-dir=/dev/shm",
        "--timeout=0",  # or it would be killed for having been halted while others were measured
        "--no-control-socket",
        "--log-level=warning",
        app,
    ]
    run()


def gunicorn(port):
    serve_gunicorn("peers:wsgi", port)


def floor(port):
    """What the design of webserver_influx.py costs by itself: all of its server, but no HTTP. Whatever arrives is
    answered with a constant."""
    reply = f"HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\nContent-Length: 8\r\n\r\nSum: 6.0".encode()

    def handle(self):
        data = yield b""
        while data:
            data = yield reply
        return b""

    ours.SumHandler.handle = handle
    ours.main(["--bind", HOST, "--port", str(port), "--state", ":memory:"])


# --- as their documentation says


def sum_of(numbers):
    return f"Sum: {sum(map(float, numbers))}"


def fastapi(port):
    from fastapi import FastAPI, Request
    from fastapi.responses import PlainTextResponse

    app = FastAPI(openapi_url=None)

    @app.get("/")
    async def get(request: Request):
        return PlainTextResponse(sum_of(request.query_params.values()))

    @app.post("/")
    async def post(request: Request):
        return PlainTextResponse(sum_of((await request.json()).values()))

    serve_uvicorn(app, port)


def litestar(port):
    from litestar import Litestar, MediaType, Request, get, post

    @get("/", media_type=MediaType.TEXT)
    async def sum_query(request: Request) -> str:
        return sum_of(request.query_params.values())

    @post("/", media_type=MediaType.TEXT, status_code=200)
    async def sum_body(request: Request) -> str:
        return sum_of((await request.json()).values())

    serve_uvicorn(Litestar([sum_query, sum_body], openapi_config=None), port)


def flask(port):
    serve_gunicorn("peers:flask_app()", port)


def flask_app():
    from flask import Flask, Response, request

    app = Flask("peers")

    @app.get("/")
    def get():
        return Response(sum_of(request.args.values()), content_type=TEXT)

    @app.post("/")
    def post():
        return Response(sum_of(request.get_json().values()), content_type=TEXT)

    return app


def bottle(port):
    """On cheroot, one of the multi-threaded servers that its deployment guide names."""
    from bottle import Bottle, request, response

    app = Bottle()

    @app.get("/")
    def get():
        response.content_type = TEXT
        return sum_of(request.query.values())

    @app.post("/")
    def post():
        response.content_type = TEXT
        return sum_of(request.json.values())

    app.run(server="cheroot", host=HOST, port=port, quiet=True, request_queue_size=BACKLOG, timeout=IDLE_S)


def http_server(port):
    """The standard library with care: keep-alive, TCP_NODELAY, one write per reply, no log line."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self):
            self.reply(value for _, value in parse_qsl(self.path.partition("?")[2]))

        def do_POST(self):
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))).values())

        def reply(self, numbers):
            body = sum_of(numbers).encode()
            self.send_response(200)
            self.send_header("Content-Type", TEXT)
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = BACKLOG

        def handle_error(self, *args):
            pass

    Server((HOST, port), Handler).serve_forever()


PEERS = [
    *(bjoern, fastpysgi, fastpysgi_asgi, granian, granian_asgi, granian_wsgi, uvicorn, socketify, aiohttp, blacksheep),
    *(robyn, waitress, cheroot, gunicorn, floor, fastapi, litestar, flask, bottle, http_server),
]

if __name__ == "__main__":
    {peer.__name__: peer for peer in PEERS}[sys.argv[1]](int(sys.argv[2]))
