"""Tables of request heads, good and bad.

GOOD maps names to heads, BAD maps names to the status of the refusal and the head. The names are the ids of tests.
"""

from __future__ import annotations

import re

NEXT = b"GET /next?a=1 HTTP/1.1\r\nHost: next\r\n\r\n"  # a request that tests send after another one


def head_of(*lines: str, host: str | None = "x") -> bytes:
    """Return a head of these lines, in Latin-1, with a Host field as the second line unless `host` is None."""
    fields = lines if host is None else (lines[0], f"Host: {host}", *lines[1:])
    return "".join(f"{line}\r\n" for line in (*fields, "")).encode("latin-1")


def get(*fields: str, host: str | None = "x") -> bytes:
    return head_of("GET / HTTP/1.1", *fields, host=host)


def get_1_0(*fields: str, host: str | None = None) -> bytes:
    return head_of("GET / HTTP/1.0", *fields, host=host)


def line_of(size: int) -> bytes:
    """Return a head whose request line has this many bytes."""
    start, end = b"GET /?a=3&b=", b" HTTP/1.1"
    return start + b"1" * (size - len(start) - len(end)) + end + b"\r\nHost: x\r\n\r\n"


def head_of_size(size: int) -> bytes:
    """Return a head of this many bytes, not counting the empty line at its end."""
    start = b"GET / HTTP/1.1\r\nHost: x\r\nPadding: "
    return start + b"p" * (size - len(start)) + b"\r\n\r\n"


def fields_of(count: int) -> bytes:
    """Return a head with this many fields, including Host."""
    return get(*(f"F{number}: v" for number in range(count - 1)))


GOOD = {
    "the simplest": get(),
    "a query": head_of("GET /?a=3&b=3 HTTP/1.1"),
    "a query with characters that RFC 3986 encodes": head_of('GET /?a=[3]|"^`{}<>\\ HTTP/1.1'),
    "a path in Latin-1": head_of("GET /\xe9 HTTP/1.1"),
    "a query in UTF-8": "GET /?имя=3&b=4 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "HEAD": head_of("HEAD / HTTP/1.1"),
    "POST": head_of("POST / HTTP/1.1", "Content-Length: 3", "Content-Type: application/json"),
    "an unknown method": head_of("BREW /pot HTTP/1.1"),
    "a method in lower case": head_of("get / HTTP/1.1"),
    "a method of all token characters": head_of("!#$%&'*+-.^_`|~09azAZ / HTTP/1.1"),
    "a later HTTP/1 version": head_of("GET / HTTP/1.9"),
    "HTTP/1.0 without Host": get_1_0(),
    "HTTP/1.0 with Host": get_1_0(host="x"),
    "HTTP/1.0 with keep-alive": get_1_0("Connection: Keep-Alive"),
    "absolute-form": head_of("GET http://x:80/path?a=3 HTTP/1.1"),
    "absolute-form of IPv6": head_of("GET http://[::1]:80/?a=3 HTTP/1.1"),
    "absolute-form of IPv6 in upper case": head_of("GET http://[::FFFF]/?a=3 HTTP/1.1"),
    "absolute-form with escapes": head_of("GET http://A%Fa%aF-._~!$&'()*+,;=Zz9%20/ HTTP/1.1"),
    "absolute-form with a query and no path": head_of("GET http://x?a=3 HTTP/1.1"),
    "absolute-form of another scheme": head_of("GET HTTPS://x HTTP/1.1"),
    "OPTIONS *": head_of("OPTIONS * HTTP/1.1"),
    "OPTIONS of a path": head_of("OPTIONS / HTTP/1.1"),
    "CONNECT": head_of("CONNECT example.org:443 HTTP/1.1"),
    "CONNECT to IPv6": head_of("CONNECT [::1]:443 HTTP/1.1"),
    "Host with a port": get(host="example.org:8008"),
    "Host with an empty port": get(host="example.org:"),
    "Host of IPv4": get(host="127.0.0.1:8008"),
    "Host of IPv6": get(host="[::1]"),
    "Host of IPv6 with a port": get(host="[::1]:80"),
    "Host of mapped IPv4": get(host="[::ffff:127.0.0.1]:80"),
    "Host that is empty": get(host=""),
    "Host with an escape": get(host="a%20b"),
    "Host with sub-delims": get(host="a_b~!$&'()*+,;=.example"),
    "Host in upper case": get("HOST: x", host=None),
    "Host with spaces and tabs around it": get("Host: \t x \t ", host=None),
    "Host without a space": get("Host:x", host=None),
    "a field without a value": get("Empty:"),
    "a field value of Latin-1": get("Name: J\xfcrgen\xff\x80"),
    "a field value with a tab": get("Name: a\tb"),
    "a field name of all token characters": get("!#$%&'*+-.^_`|~09azAZ: v"),
    "an empty line before the request": b"\r\n" + get(),
    "a Content-Length of 0": get("Content-Length: 0"),
    "a Content-Length with leading zeros": get("Content-Length: 000000000000000000000000000000000003"),
    "the same Content-Length twice in a field": get("Content-Length: 3, 3"),
    "the same Content-Length in two fields": get("Content-Length: 3", "Content-Length: 3"),
    "a Content-Length of 5000 digits": get("Content-Length: " + "9" * 5000),
    "chunked": get("Transfer-Encoding: chunked"),
    "chunked in another case": get("Transfer-Encoding: CHUNKED"),
    "chunked among empty members": get("Transfer-Encoding: , chunked,"),
    "a malformed Content-Type": get("Content-Type: json"),
    "an empty Content-Type": get("Content-Type:"),
    "a content coding": get("Content-Encoding: gzip"),
    "two content codings": get("Content-Encoding: gzip", "Content-Encoding: br"),
    "an expectation": get("Expect: 100-continue"),
    "an unknown expectation": get("Expect: the-unexpected"),
    "a request line of 8192 bytes": line_of(8192),
    "a head of 65536 bytes": head_of_size(65536),
    "100 fields": fields_of(100),
}


def answered(head: bytes) -> tuple[str, bytes, int]:
    """Return the method of a good head, a body that fits it, and the status of the final response to both."""
    method = head.lstrip().split(b" ")[0].decode()
    if len(head) > 5000 and b"Content-Length" in head:
        return method, b"", 413
    if b"unexpected" in head:
        return method, b"", 417
    body = b"{ }" if re.search(rb"Content-Length: 0*3", head) else b""
    if b"chunked" in head.lower():
        body = b"0\r\n\r\n"
    status = {"GET": 200, "HEAD": 200, "POST": 200, "OPTIONS": 405, "CONNECT": 405}.get(method, 501)
    return method, body, status


BAD = {
    # malformed request lines
    "only a number": (400, b"1\r\n\r\n"),
    "HTTP/0.9": (400, head_of("GET /", host=None)),
    "HTTP/0.9 with fields": (400, head_of("GET /")),
    "only a method": (400, head_of("GET")),
    "no method": (400, head_of(" / HTTP/1.1")),
    "no target": (400, head_of("GET  HTTP/1.1")),
    "two spaces before the target": (400, head_of("GET  / HTTP/1.1")),
    "two spaces after the target": (400, head_of("GET /  HTTP/1.1")),
    "tabs for spaces": (400, head_of("GET\t/\tHTTP/1.1")),
    "a space at the end": (400, head_of("GET / HTTP/1.1 ")),
    "a space at the start": (400, head_of(" GET / HTTP/1.1")),
    "a space in the target": (400, head_of("GET /a b HTTP/1.1")),
    "a method that is not a token": (400, head_of("G(T / HTTP/1.1")),
    "a method in Latin-1": (400, head_of("G\xc9T / HTTP/1.1")),
    "a target that is not a path": (400, head_of("GET path HTTP/1.1")),
    "a target that is a query": (400, head_of("GET ?a=3 HTTP/1.1")),
    "a target with a fragment": (400, head_of("GET /#top HTTP/1.1")),
    "a target with a DEL": (400, head_of("GET /\x7f HTTP/1.1")),
    "absolute-form without a host": (400, head_of("GET http:///?a=1 HTTP/1.1")),
    "absolute-form with a query for a host": (400, head_of("GET http://?a=1 HTTP/1.1")),
    "absolute-form with nothing after the scheme": (400, head_of("GET http:// HTTP/1.1")),
    "absolute-form with a port alone": (400, head_of("GET http://:80/ HTTP/1.1")),
    "absolute-form with an open bracket": (400, head_of("GET http://[::1/ HTTP/1.1")),
    "absolute-form with a user": (400, head_of("GET http://user:password@x/ HTTP/1.1")),
    "absolute-form with a malformed host": (400, head_of("GET http://a<>b/ HTTP/1.1")),
    "GET *": (400, head_of("GET * HTTP/1.1")),
    "GET of an authority": (400, head_of("GET example.org:443 HTTP/1.1")),
    "CONNECT with a user": (400, head_of("CONNECT a@b HTTP/1.1")),
    "CONNECT to brackets around a field": (400, b"CONNECT [ HTTP/1.1\r\nX:] HTTP/1.1\r\nHost: x\r\n\r\n"),
    "CONNECT to brackets around controls": (400, b"CONNECT [a\0\n\xff]:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "CONNECT to a name in brackets": (400, head_of("CONNECT [zz]:80 HTTP/1.1")),
    "CONNECT to brackets without an address": (400, head_of("CONNECT [::1::]:80 HTTP/1.1")),
    "absolute-form of brackets without an address": (400, head_of("GET http://[:::::]/ HTTP/1.1")),
    "absolute-form of empty brackets": (400, head_of("GET http://[]/ HTTP/1.1")),
    "absolute-form of IPv4 in brackets": (400, head_of("GET http://[127.0.0.1]/ HTTP/1.1")),
    "absolute-form of a host in UTF-8": (400, "GET http://é/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()),
    "CONNECT to a path": (400, head_of("CONNECT / HTTP/1.1")),
    "CONNECT to an absolute URI": (400, head_of("CONNECT http://x:80/ HTTP/1.1")),
    "CONNECT without a port": (400, head_of("CONNECT example.org HTTP/1.1")),
    "CONNECT with an empty port": (400, head_of("CONNECT example.org: HTTP/1.1")),
    "CONNECT with a port of letters": (400, head_of("CONNECT example.org:http HTTP/1.1")),
    "CONNECT to a port alone": (400, head_of("CONNECT :443 HTTP/1.1")),
    "CONNECT *": (400, head_of("CONNECT * HTTP/1.1")),
    "another method with *": (400, head_of("M-SEARCH * HTTP/1.1")),
    "CONNECT without a target": (400, head_of("CONNECT  HTTP/1.1")),
    "OPTIONS **": (400, head_of("OPTIONS ** HTTP/1.1")),
    "no version": (400, head_of("GET / ")),
    "a version in lower case": (400, head_of("GET / http/1.1")),
    "a version of one digit": (400, head_of("GET / HTTP/1")),
    "a version of three digits": (400, head_of("GET / HTTP/1.10")),
    "a version with a digit that is not ASCII": (400, head_of("GET / HTTP/1.\xb2")),
    "another protocol": (400, head_of("GET / RTSP/1.1")),
    "two empty lines first": (400, b"\r\n\r\n" + get()),
    # malformed fields
    "obs-fold": (400, get("Name: a", " b")),
    "obs-fold with a tab": (400, get("Name: a", "\tb")),
    "obs-fold in the first field": (400, b"GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
    "a space before the colon": (400, get("Name : v")),
    "a tab before the colon": (400, get("Name\t: v")),
    "no colon": (400, get("Name")),
    "no name": (400, get(": v")),
    "a name that is not a token": (400, get("Na(me: v")),
    "a name in Latin-1": (400, get("N\xe4me: v")),
    "NUL in a value": (400, get("Name: a\0b")),
    "NUL in a name": (400, get("Na\0me: v")),
    "NUL in the target": (400, head_of("GET /\0 HTTP/1.1")),
    "NUL in the method": (400, head_of("GE\0T / HTTP/1.1")),
    "a DEL in a value": (400, get("Name: \x7f")),
    "an escape in a value": (400, get("Name: \x1b[31m")),
    "a bare CR in a value": (400, get("Name: a\rb")),
    "a bare LF in a value": (400, get("Name: a\nb: c")),
    "a bare CR after the request line": (400, b"GET / HTTP/1.1\rHost: x\r\n\r\n"),
    "a bare LF after the request line": (400, b"GET / HTTP/1.1\nHost: x\r\n\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n"),
    "bare LFs everywhere": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "a TLS ClientHello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n"),
    # Host
    "no Host": (400, get(host=None)),
    "two Hosts": (400, get("Host: x")),
    "two Hosts in HTTP/1.0": (400, get_1_0("Host: y", host="x")),
    "two hosts in one Host": (400, get(host="x, y b")),
    "Host with a space": (400, get(host="a b")),
    "Host with a port of letters": (400, get(host="x:abc")),
    "Host with two ports": (400, get(host="x:1:2")),
    "Host with a signed port": (400, get(host="x:-1")),
    "Host with a user": (400, get(host="user@x")),
    "Host with a path": (400, get(host="x/")),
    "Host that is a URI": (400, get(host="http://x")),
    "Host of IPv6 without brackets": (400, get(host="::1")),
    "Host with a bracket that is not closed": (400, get(host="[::1")),
    "Host with empty brackets": (400, get(host="[]")),
    "Host with a name in brackets": (400, get(host="[x]")),
    "Host with IPv4 in brackets": (400, get(host="[127.0.0.1]")),
    "Host with a zone": (400, get(host="[fe80::1%eth0]")),
    "Host with a character after the bracket": (400, get(host="[::1]x")),
    "Host with half an escape": (400, get(host="a%2")),
    "Host in Latin-1": (400, get(host="\xe9")),
    "a malformed Host in HTTP/1.0": (400, get_1_0(host="a b")),
    # body length
    "Content-Length and Transfer-Encoding": (400, get("Content-Length: 3", "Transfer-Encoding: chunked")),
    "Transfer-Encoding and Content-Length": (400, get("Transfer-Encoding: chunked", "Content-Length: 3")),
    "Content-Length and an unknown coding": (400, get("Content-Length: 3", "Transfer-Encoding: gzip")),
    "two different Content-Lengths": (400, get("Content-Length: 3", "Content-Length: 4")),
    "two different Content-Lengths in one field": (400, get("Content-Length: 3, 4")),
    "Content-Lengths that differ in a leading zero": (400, get("Content-Length: 3", "Content-Length: 03")),
    "a Content-Length and an empty one": (400, get("Content-Length: 3", "Content-Length:")),
    "a Content-Length with +": (400, get("Content-Length: +3")),
    "a Content-Length with -": (400, get("Content-Length: -3")),
    "a Content-Length in hex": (400, get("Content-Length: 0x3")),
    "a Content-Length of hex digits": (400, get("Content-Length: a")),
    "a Content-Length with a point": (400, get("Content-Length: 3.0")),
    "a Content-Length with a space": (400, get("Content-Length: 3 4")),
    "a Content-Length with an underscore": (400, get("Content-Length: 1_0")),
    "a Content-Length of a digit that is not ASCII": (400, get("Content-Length: \xb2")),
    "an empty Content-Length": (400, get("Content-Length:")),
    "a Content-Length in quotes": (400, get('Content-Length: "3"')),
    "Transfer-Encoding in HTTP/1.0": (400, get_1_0("Transfer-Encoding: chunked")),
    "chunked twice": (400, get("Transfer-Encoding: chunked, chunked")),
    "chunked in two fields": (400, get("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")),
    "an empty Transfer-Encoding": (400, get("Transfer-Encoding:")),
    "chunked twice after gzip": (400, get("Transfer-Encoding: gzip, chunked, chunked")),
    "chunked before gzip": (400, get("Transfer-Encoding: chunked, gzip")),
    "chunked before gzip in two fields": (400, get("Transfer-Encoding: chunked", "Transfer-Encoding: gzip")),
    "chunked before identity": (400, get("Transfer-Encoding: chunked, identity")),
    "chunked around gzip": (400, get("Transfer-Encoding: chunked, gzip, chunked")),
    "gzip": (400, get("Transfer-Encoding: gzip")),
    "identity": (400, get("Transfer-Encoding: identity")),
    "chunked with a parameter": (400, get("Transfer-Encoding: chunked;q=1")),
    "chunked in quotes": (400, get('Transfer-Encoding: "chunked"')),
    "almost chunked": (400, get("Transfer-Encoding: xchunked")),
    "chunked after NEL, a line end of Latin-1": (400, get("Transfer-Encoding: \x85chunked")),
    "chunked with a Kelvin sign": (400, get("Transfer-Encoding: chun\xe2\x84\xaaed")),
    "gzip, chunked": (501, get("Transfer-Encoding: gzip, chunked")),
    "gzip and chunked in two fields": (501, get("Transfer-Encoding: gzip", "Transfer-Encoding: chunked")),
    "identity, chunked": (501, get("Transfer-Encoding: identity, chunked")),
    "chunked after a vertical tab": (400, get("Transfer-Encoding: \x0bchunked")),
    # data type
    "two Content-Types": (400, get("Content-Type: application/json", "Content-Type: text/plain")),
    "two Content-Types with parameters": (400, get("Content-Type: application/json;a=b", "Content-Type: text/plain")),
    "the same Content-Type twice": (400, get("Content-Type: application/json", "content-type: application/json")),
    "two Content-Types in HTTP/1.0": (400, get_1_0("Content-Type: application/json", "Content-Type: text/plain")),
    "a Content-Type and an empty one": (400, get("Content-Type: application/json", "Content-Type:")),
    # versions
    "HTTP/2.0": (505, head_of("GET / HTTP/2.0")),
    "the preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9 as a version": (505, head_of("GET / HTTP/0.9", host=None)),
    "HTTP/9.9": (505, head_of("GET / HTTP/9.9")),
    # sizes
    "a request line of 8193 bytes": (414, line_of(8193)),
    "a method of 9,000 characters": (501, head_of("G" * 9000 + " / HTTP/1.1")),
    "a method without an end": (501, b"G" * 9000),
    "a request line without an end": (414, b"GET /" + b"a" * 10_000),
    "a head of 65537 bytes": (431, head_of_size(65537)),
    "a head without an end": (431, get()[:-2] + b"Name: v\r\n" * 8000),
    "101 fields": (431, fields_of(101)),
}
