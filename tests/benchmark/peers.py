"""The peers of the benchmark: the same work in each server or framework, as its own documentation does it for speed.

    python peers.py NAME PORT       # serves until it is killed

Each adds up the numbers of a query string, or those of a JSON object in a POST, and answers `Sum: 6.0` as text/plain.
Each is one process that serves (Granian and gunicorn have one more, idle, that watches over it), without an access log,
with a backlog and an idle time-out that drop no connection of the benchmark. Where a framework parses the query and the
JSON itself, its way is used; where it does not, urllib.parse and json are, as Starlette and Werkzeug use them.

Imports are inside the functions, so that a peer that is not installed stops nobody else.
"""

import json
import sys
from pathlib import Path
from urllib.parse import parse_qsl

HOST = "127.0.0.1"
TEXT = "text/plain; charset=utf-8"
BACKLOG = 4096  # connections not yet accepted; as many as Linux admits by default
IDLE_S = 300  # seconds; longer than the benchmark leaves a connection idle
CONNECTIONS = 20_000  # more than the benchmark opens


def sum_of(numbers):
    return f"Sum: {sum(map(float, numbers))}"


def sum_of_query(query):
    return sum_of(value for _, value in parse_qsl(query))


def sum_of_json(body):
    return sum_of(json.loads(body).values())


# --- bare interfaces: ASGI, WSGI, http.server


async def asgi(scope, receive, send):
    if scope["method"] == "POST":
        body, more = b"", True
        while more:
            event = await receive()
            body += event["body"]
            more = event.get("more_body")
        reply = sum_of_json(body)
    else:
        reply = sum_of_query(scope["query_string"].decode("latin-1"))
    reply = reply.encode()
    headers = [(b"content-type", TEXT.encode()), (b"content-length", b"%d" % len(reply))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": reply})


def wsgi(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        reply = sum_of_json(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    else:
        reply = sum_of_query(environ["QUERY_STRING"])
    reply = reply.encode()
    start_response("200 OK", [("Content-Type", TEXT), ("Content-Length", str(len(reply)))])
    return [reply]


def serve_asgi(app, port):
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
    serve_asgi(asgi, port)


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


def http_server(port):
    """The standard library with care: keep-alive, TCP_NODELAY, one write per reply, no log line."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self):
            self.reply(sum_of_query(self.path.partition("?")[2]))

        def do_POST(self):
            self.reply(sum_of_json(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, text):
            body = text.encode()
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


# --- frameworks


def serve_granian(port, *options):
    """Granian with the settings of its own benchmarks: one worker, HTTP/1 only, no websockets, uvloop."""
    from granian.cli import cli

    always = f"--host={HOST} --port={port} --http=1 --no-ws --loop=uvloop --http1-pipeline-flush --log-level=warning"
    cli([*always.split(), f"--backlog={BACKLOG}", f"--backpressure={CONNECTIONS}", *options])


def granian(port):
    """RSGI, its own and fastest interface."""
    serve_granian(port, "--interface=rsgi", "--runtime-mode=mt", "peers:rsgi")


async def rsgi(scope, protocol):
    reply = sum_of_json(await protocol()) if scope.method == "POST" else sum_of_query(scope.query_string)
    protocol.response_str(200, [("content-type", TEXT)], reply)


def socketify(port):
    """Asks for the numbers by name, which its C++ parser answers; all of a query it would parse in Python. The body
    comes by `on_data`, because `get_json` crashes under load."""
    from socketify import App, AppListenOptions

    def get(response, request):
        response.send(sum_of([request.get_query("a"), request.get_query("b")]), TEXT.encode())

    def post(response, request):
        body = bytearray()

        def take(response, chunk, is_end):
            body.extend(chunk or b"")
            if is_end:
                response.cork_send(sum_of_json(body), TEXT.encode())

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
        return web.Response(text=sum_of(request.query.values()))

    async def post(request):
        return web.Response(text=sum_of((await request.json()).values()))

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
        return text(sum_of(value for values in request.query.values() for value in values))

    @post("/")
    async def sum_body(request: Request):
        return text(sum_of((await request.json()).values()))

    return app


def robyn(port):
    """What `--fast` sets (no log below WARNING), but one process."""
    sys.argv[1:] = ["--processes=1", "--workers=1", "--log-level=WARNING", "--disable-openapi"]
    from robyn import Headers, Request, Response, Robyn

    app = Robyn(__file__)
    headers = Headers({"Content-Type": TEXT})

    @app.get("/")
    def get(request: Request):
        return Response(200, headers, sum_of(value for _, value in request.query_params.multi_items()))

    @app.post("/")
    def post(request: Request):
        return Response(200, headers, sum_of(request.json().values()))

    app.start(host=HOST, port=port, keep_alive_timeout=IDLE_S)


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

    serve_asgi(app, port)


def flask(port):
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
        "peers:flask_app()",
    ]
    run()


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


def floor(port):
    """What the design of webserver_influx.py costs by itself: all of its server, but no HTTP. Whatever arrives is
    answered with a constant."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import webserver_influx as ours

    reply = f"HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\nContent-Length: 8\r\n\r\nSum: 6.0".encode()

    def handle(self):
        data = yield b""
        while data:
            data = yield reply
        return b""

    ours.SumHandler.handle = handle
    ours.main(["--bind", HOST, "--port", str(port), "--state", ":memory:"])


PEERS = {
    "uvicorn": uvicorn,
    "granian": granian,
    "socketify": socketify,
    "aiohttp": aiohttp,
    "blacksheep": blacksheep,
    "robyn": robyn,
    "fastapi": fastapi,
    "flask": flask,
    "waitress": waitress,
    "cheroot": cheroot,
    "bottle": bottle,
    "http.server": http_server,
    "floor": floor,
}

if __name__ == "__main__":
    PEERS[sys.argv[1]](int(sys.argv[2]))
