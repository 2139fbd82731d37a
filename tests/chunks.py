"""Tables of chunked bodies, good and bad.

CHUNKED_GOOD maps names to encoded and decoded bodies, CHUNKED_BAD maps names to the status of the refusal and the
encoded body. The names are the ids of tests.
"""

from __future__ import annotations

MIB = 1024 * 1024


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


LAST_CHUNK = b"0\r\n\r\n"

CHUNKED_GOOD = {
    "an empty body": (LAST_CHUNK, b""),
    "one chunk": (chunk(b"hello") + LAST_CHUNK, b"hello"),
    "two chunks": (chunk(b"hel") + chunk(b"lo") + LAST_CHUNK, b"hello"),
    "CR and LF as data": (chunk(b"\r\n0\r\n\r\n") + LAST_CHUNK, b"\r\n0\r\n\r\n"),
    "upper case": (b"A\r\n0123456789\r\n" + LAST_CHUNK, b"0123456789"),
    "lower case": (b"a\r\n0123456789\r\n" + LAST_CHUNK, b"0123456789"),
    "leading zeros": (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "an extension": (chunk(b"hello", b";name") + LAST_CHUNK, b"hello"),
    "an extension with a value": (chunk(b"hello", b";name=value") + LAST_CHUNK, b"hello"),
    "an extension in quotes": (chunk(b"hello", b';name="a;b\\" \\\\ \xe9="') + LAST_CHUNK, b"hello"),
    "an extension with an empty string": (chunk(b"hello", b';name=""') + LAST_CHUNK, b"hello"),
    "extensions with spaces and tabs": (chunk(b"hello", b' ;\ta = b ; c="d" ;e') + LAST_CHUNK, b"hello"),
    "an extension of the last chunk": (chunk(b"hello") + b"0;end\r\n\r\n", b"hello"),
    "a trailer": (chunk(b"hello") + b"0\r\nName: value\r\n\r\n", b"hello"),
    "trailers": (chunk(b"hello") + b"0\r\nA: b\r\nC:\r\nContent-Length: 7\r\n\r\n", b"hello"),
    "100 trailers": (b"0\r\n" + b"A: b\r\n" * 100 + b"\r\n", b""),
    "a line of 1024 bytes": (chunk(b"hello", b";" + b"a" * 1020) + LAST_CHUNK, b"hello"),
    "a trailer of 1024 bytes": (b"0\r\nA: " + b"b" * 1019 + b"\r\n\r\n", b""),
    "a line of 1000 bytes": (chunk(b"hello", b";" + b"a" * 990) + LAST_CHUNK, b"hello"),
    "a mebibyte": (chunk(bytes(MIB)) + LAST_CHUNK, bytes(MIB)),
}

CHUNKED_BAD = {
    "no size": (400, b"\r\nhello\r\n" + LAST_CHUNK),
    "a size that is not a number": (400, b"xyz\r\n"),
    "0x": (400, b"0x5\r\nhello\r\n" + LAST_CHUNK),
    "a sign": (400, b"+5\r\nhello\r\n" + LAST_CHUNK),
    "a negative size": (400, b"-5\r\nhello\r\n" + LAST_CHUNK),
    "a space before the size": (400, b" 5\r\nhello\r\n" + LAST_CHUNK),
    "a space after the size": (400, b"5 \r\nhello\r\n" + LAST_CHUNK),
    "an underscore": (400, b"0_5\r\nhello\r\n" + LAST_CHUNK),
    "a NUL": (400, b"5\0\r\nhello\r\n" + LAST_CHUNK),
    "a tab after the size": (400, b"5\t\r\nhello\r\n" + LAST_CHUNK),
    "a size that ends in another letter": (400, b"5x\r\nhello\r\n" + LAST_CHUNK),
    "a CR and another byte after the size": (400, b"5\rX\nhello\r\n" + LAST_CHUNK),
    "two CRs after the size": (400, b"5\r\r\nhello\r\n" + LAST_CHUNK),
    "a bare LF after the size": (400, b"5\nhello\r\n" + LAST_CHUNK),
    "a bare LF after the data": (400, b"5\r\nhello\n" + LAST_CHUNK),
    "a bare CR after the data": (400, b"5\r\nhello\r" + LAST_CHUNK),
    "an LF and a CR after the data": (400, b"5\r\nhello\n\r" + LAST_CHUNK),
    "an empty line after a chunk": (400, chunk(b"hello") + b"\r\n" + LAST_CHUNK),
    "a bare LF after the last size": (400, chunk(b"hello") + b"0\n\r\n"),
    "a bare CR in the size line": (400, b"5\r;a\r\nhello\r\n" + LAST_CHUNK),
    "more data than the size says": (400, b"4\r\nhello\r\n" + LAST_CHUNK),
    "less data than the size says": (400, b"6\r\nhello\r\n" + LAST_CHUNK),
    "no CRLF after the data": (400, b"5\r\nhello" + LAST_CHUNK),
    "a space for an extension": (400, chunk(b"hello", b"; ") + LAST_CHUNK),
    "an extension without a semicolon": (400, chunk(b"hello", b" a=b") + LAST_CHUNK),
    "an extension with two values": (400, chunk(b"hello", b";a=b c") + LAST_CHUNK),
    "an extension without a name": (400, chunk(b"hello", b";") + LAST_CHUNK),
    "an extension that is not a token": (400, chunk(b"hello", b";a(b") + LAST_CHUNK),
    "an extension without a value": (400, chunk(b"hello", b";a=") + LAST_CHUNK),
    "an extension with an open quote": (400, chunk(b"hello", b';a="b') + LAST_CHUNK),
    "an extension with a NUL": (400, chunk(b"hello", b';a="\0"') + LAST_CHUNK),
    "a trailer without a colon": (400, b"0\r\nName\r\n\r\n"),
    "a trailer with a space before the colon": (400, b"0\r\nName : v\r\n\r\n"),
    "a folded trailer": (400, b"0\r\nA: b\r\n c\r\n\r\n"),
    "a trailer with a bare LF": (400, b"0\r\nA: b\n\r\n"),
    "a trailer with a bare CR": (400, b"0\r\nA: b\rc\r\n\r\n"),
    "a bare LF for the end": (400, b"0\r\n\n"),
    "a line of 1025 bytes": (400, chunk(b"hello", b";" + b"a" * 1021) + LAST_CHUNK),
    "a second line of 1025 bytes": (400, chunk(b"hello") + chunk(b"hello", b";" + b"a" * 1021) + LAST_CHUNK),
    "a trailer of 1025 bytes": (400, b"0\r\nA: " + b"b" * 1020 + b"\r\n\r\n"),
    "a line that is too long": (400, chunk(b"hello", b";" + b"a" * 5000) + LAST_CHUNK),
    "a line without an end": (400, b"0" * 5000),
    "a line of 1024 bytes without an end": (400, b"0" * 1024),
    "a trailer that is too long": (400, b"0\r\nA: " + b"b" * 5000 + b"\r\n\r\n"),
    "a byte more than a mebibyte": (413, b"100001\r\n"),
    "a byte more than a mebibyte in two": (413, chunk(bytes(MIB)) + b"1\r\n"),
    "a size of 1000 digits": (413, b"f" * 1000 + b"\r\n"),
    "101 trailers": (431, b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n"),
    "trailers without an end": (431, b"0\r\n" + b"A: b\r\n" * 10_000),
}
