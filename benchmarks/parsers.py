"""Compare h11, which reads replies on httpx, and json with parsers in C: how fast they are, and which replies differ.

    python benchmarks/parsers.py [--quick] [--json FILE]

A reply that one parser refuses and the other reads, or that both read differently, would change what a grant ends in.
The same holds for JSON: amounts keep all their digits. The figures are CPU per reply or row, medians of interleaved
rounds; an exchange of h11 also writes the request.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import h11
import httptools
import msgspec
import orjson
import tables

BODY = b'{"ok":true,"code":200,"result":"aE1pu1lJo7XBetF5gIRHYH7L"}'
HEADERS = [("Host", "api.example"), ("Accept", "application/json"), ("Content-Type", "application/json")]
ROUNDS, TIMES = (5, 500) if "--quick" in sys.argv else (25, 2_000)
_LENGTH = b"content-length: %d\r\n" % len(BODY)
TYPICAL = (
    b"HTTP/1.1 200 OK\r\nserver: nginx\r\ndate: Sun, 29 Nov 2026 10:00:00 GMT\r\ncontent-type: application/json\r\n"
    + _LENGTH
    + b"connection: keep-alive\r\nvary: accept-encoding\r\nx-request-id: 8f14e45fceea167a5a36dedd4bea2543\r\n\r\n"
    + BODY
)


def reply(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = BODY, end: bytes = b"\r\n") -> bytes:
    """Return the bytes of a reply."""
    return end.join([line, *fields, b"", body])


_CHUNKED, _SIZED = b"transfer-encoding: chunked", _LENGTH.strip()
_IN_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
STRANGE = {
    "as usual": TYPICAL,
    "chunked": reply(_CHUNKED, body=_IN_CHUNKS),
    "chunked, with an extension": reply(_CHUNKED, body=_IN_CHUNKS.replace(b"\r\n", b";a=b\r\n", 1)),
    "chunked, with a trailer": reply(_CHUNKED, body=_IN_CHUNKS[:-2] + b"x: y\r\n\r\n"),
    "chunked and sized": reply(_CHUNKED, _SIZED, body=_IN_CHUNKS),
    "chunked, named twice": reply(_CHUNKED, _CHUNKED, body=_IN_CHUNKS),
    "another transfer coding": reply(b"transfer-encoding: gzip, chunked", body=_IN_CHUNKS),
    "a chunk size with a sign": reply(_CHUNKED, body=b"+" + _IN_CHUNKS),
    "a chunk size with a blank": reply(_CHUNKED, body=_IN_CHUNKS.replace(b"\r\n", b" \r\n", 1)),
    "chunks that end in LF alone": reply(_CHUNKED, body=_IN_CHUNKS.replace(b"\r\n", b"\n")),
    "sized twice, alike": reply(_SIZED, _SIZED),
    "sized twice, in one line": reply(_SIZED + b", %d" % len(BODY)),
    "sized twice, differently": reply(_SIZED, b"content-length: 3"),
    "a size with a sign": reply(b"content-length: +%d" % len(BODY)),
    "no size": reply(),
    "204 with a size": reply(b"content-length: 0", line=b"HTTP/1.1 204 No Content", body=b""),
    "204 with a body": reply(_SIZED, line=b"HTTP/1.1 204 No Content"),
    "304 with a size": reply(_SIZED, line=b"HTTP/1.1 304 Not Modified", body=b""),
    "100 before it": reply(line=b"HTTP/1.1 100 Continue", body=TYPICAL),
    "103 before it": reply(b"link: </a>", line=b"HTTP/1.1 103 Early Hints", body=TYPICAL),
    "101": reply(b"upgrade: x", b"connection: upgrade", line=b"HTTP/1.1 101 Switching Protocols", body=b""),
    "HTTP/1.0": reply(_SIZED, line=b"HTTP/1.0 200 OK"),
    "HTTP/0.9": reply(_SIZED, line=b"HTTP/0.9 200 OK"),
    "HTTP/2.0": reply(_SIZED, line=b"HTTP/2.0 200 OK"),
    "a line in small letters": reply(_SIZED, line=b"http/1.1 200 OK"),
    "no reason": reply(_SIZED, line=b"HTTP/1.1 200"),
    "a status of two digits": reply(_SIZED, line=b"HTTP/1.1 20 OK"),
    "a status of four digits": reply(_SIZED, line=b"HTTP/1.1 2000 OK"),
    "status 600": reply(_SIZED, line=b"HTTP/1.1 600 Odd"),
    "a reason in Latin-1": reply(_SIZED, line="HTTP/1.1 200 Ünï".encode("latin-1")),
    "lines that end in LF alone": reply(_SIZED, end=b"\n"),
    "lines that end in CR alone": reply(_SIZED, end=b"\r"),
    "an empty line before it": b"\r\n" + reply(_SIZED),
    "a header in two lines": reply(b"x-a: b\r\n c", _SIZED),
    "a blank before the colon": reply(b"x-a : b", _SIZED),
    "a blank before the name": reply(b" x-a: b", _SIZED),
    "a header without a name": reply(b": b", _SIZED),
    "a header without a colon": reply(b"nonsense", _SIZED),
    "a name with a bracket": reply(b"x[a]: b", _SIZED),
    "a value with a NUL": reply(b"x-a: b\0c", _SIZED),
    "a value with a control character": reply(b"x-a: b\x01c", _SIZED),
    "a value in Latin-1": reply("x-a: Ünï".encode("latin-1"), _SIZED),
    "a header of 60 KB": reply(b"x-a: " + b"b" * 60_000, _SIZED),
    "a header of 200 KB": reply(b"x-a: " + b"b" * 200_000, _SIZED),
    "another reply behind it": reply(_SIZED) + reply(_SIZED),
    "more than its size": reply(b"content-length: 3"),
    "less than its size": reply(b"content-length: 500"),
    "cut in its head": reply(_SIZED)[:30],
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
}


def by_h11(data: bytes) -> str:
    """Return what h11 makes of a reply to a GET, after which the server closes."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    connection.send(h11.Request(method="GET", target="/", headers=HEADERS))
    connection.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(b"")
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                return "101"
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or event is h11.PAUSED:
                break
    except h11.RemoteProtocolError:
        return "refused"
    left = bool(connection.trailing_data[0])
    again = connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE} and not left
    return f"{status}, {_named(body)}, {'kept' if again else 'closed'}"


class Heard:
    """The first final reply, as httptools reads it."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.body = b""
        self.complete = False
        self.kept = False

    def on_message_begin(self) -> None:
        """Begin a reply."""
        self.complete = False

    def on_headers_complete(self) -> None:
        """Note the status."""
        self.statuses.append(PARSER[0].get_status_code())

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Note the end."""
        self.complete = True
        self.kept = PARSER[0].should_keep_alive()


PARSER: list[httptools.HttpResponseParser] = []


def by_httptools(data: bytes) -> str:
    """Return what httptools makes of it."""
    heard = Heard()
    PARSER[:] = [httptools.HttpResponseParser(heard)]
    try:
        PARSER[0].feed_data(data)
    except httptools.HttpParserUpgrade:
        return "101"
    except httptools.HttpParserError:
        return "refused"
    final = [status for status in heard.statuses if status >= 200]
    if not final:
        return "refused"
    if not heard.complete and (b"\ncontent-length" in data or b"chunked" in data):
        return "refused"  # it was cut
    kept = heard.complete and heard.kept and len(final) == 1
    return f"{final[0]}, {_named(heard.body)}, {'kept' if kept else 'closed'}"


def _named(body: bytes) -> str:
    return {BODY: "the body", b"": "no body"}.get(body, f"{len(body)} bytes")


def exchange() -> None:
    """Do what a connection of httpx does with h11 for one request and its reply."""
    connection = h11.Connection(h11.CLIENT)
    for _ in range(TIMES):
        connection.send(h11.Request(method="GET", target="/", headers=HEADERS))
        connection.send(h11.EndOfMessage())
        connection.receive_data(TYPICAL)
        while not isinstance(connection.next_event(), h11.EndOfMessage):
            pass
        connection.start_next_cycle()


def reading() -> None:
    """Read replies with httptools."""
    for _ in range(TIMES):
        heard = Heard()
        PARSER[:] = [httptools.HttpResponseParser(heard)]
        PARSER[0].feed_data(TYPICAL)
        assert heard.complete


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "json, amounts as Decimal": json.JSONDecoder(parse_float=Decimal).decode,  # type: ignore[dict-item]
    "msgspec, amounts as Decimal": msgspec.json.Decoder(float_hook=Decimal).decode,
    "orjson": orjson.loads,
}
ROW = {
    "id": 17,
    "user": {"id": 4200, "name": "Ünï"},
    "plan": "My first plan",
    "cost": 9.99,
    "ends": "2026-12-24 10:00:00",
}
ROWS = json.dumps({"ok": True, "code": 200, "result": [ROW] * 10_000}).encode()
STRANGE_JSON = {
    "an amount of 20 digits": b"[12345678901234.567890]",
    "an amount that binary cannot hold": b"[0.1]",
    "an amount beyond every float": b"[1e400]",
    "an id of 30 digits": b"[123456789012345678901234567890]",
    "half a surrogate pair": b'["\\ud800"]',
    "NaN": b"[NaN]",
    "a name twice": b'{"a": 1, "a": 2}',
    "500 levels": b"[" * 500 + b"]" * 500,
    "a control character": b'["\x01"]',
    "a byte order mark": b"\xef\xbb\xbf[]",
}


def decoded(decode: Callable[[bytes], Any], text: bytes) -> str:
    """Return what a decoder makes of a text."""
    try:
        return repr(decode(text))
    except (ValueError, msgspec.DecodeError, RecursionError):
        return "refused"


def by_json(text: bytes) -> str | bytes:
    """Return the text as the decoder of the standard library takes it."""
    return text.decode(json.detect_encoding(text), "surrogatepass")


def measure(work: Callable[[], object], each: int = TIMES) -> float:
    """Return CPU microseconds per reply or row."""
    began = time.process_time()
    work()
    return 1e6 * (time.process_time() - began) / each


def compare_json() -> list[tables.Row]:
    """Return the speed of the decoders, and how many strange texts they read as the standard library does."""
    decoders = dict(DECODERS)
    first = next(iter(decoders))
    standard = decoders[first]
    decoders[first] = lambda text: standard(by_json(text))  # type: ignore[arg-type]
    small: dict[str, list[float]] = {name: [] for name in decoders}
    large: dict[str, list[float]] = {name: [] for name in decoders}
    for name in [*decoders] * ROUNDS:
        decode = decoders[name]
        small[name].append(measure(lambda decode=decode: [decode(BODY) for _ in range(TIMES)]))  # type: ignore[misc]
        large[name].append(measure(partial(decode, ROWS), 10_000))
    alike = {
        name: sum(decoded(decode, text) == decoded(decoders[first], text) for text in STRANGE_JSON.values())
        for name, decode in decoders.items()
    }
    return [
        {
            "decoder": name,
            "CPU µs per small reply": round(statistics.median(small[name]), 2),
            "CPU µs per row of 10,000": round(statistics.median(large[name]), 2),
            f"of {len(STRANGE_JSON)} strange texts read alike": alike[name],
        }
        for name in decoders
    ]


def main() -> None:
    """Print the speeds, and the replies that read differently."""
    works = {"h11, a whole exchange": exchange, "httptools, the reply": reading}
    figures: dict[str, list[float]] = {name: [] for name in works}
    for name in [*works] * ROUNDS:
        figures[name].append(measure(works[name]))
    speed: list[tables.Row] = [
        {"parser": name, "CPU µs": round(statistics.median(found), 1), "lowest": round(min(found), 1)}
        for name, found in figures.items()
    ]
    read = {name: (by_h11(data), by_httptools(data)) for name, data in STRANGE.items()}
    differ: list[tables.Row] = [
        {"reply": name, "h11": one, "httptools": other} for name, (one, other) in read.items() if one != other
    ]
    counts: list[tables.Row] = [
        {"strange replies": len(read), "read alike": len(read) - len(differ), "read differently": len(differ)}
    ]
    tables.publish(
        {
            "reading a small reply": speed,
            "strange replies": counts,
            "what differs": differ,
            "JSON": compare_json(),
        },
        *("h11", "httptools", "msgspec", "orjson"),
    )


if __name__ == "__main__":
    main()
