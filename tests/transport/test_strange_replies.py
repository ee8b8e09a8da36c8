"""Unusual replies of real servers have the same outcome with all transports and clients."""

import gzip
import json
import zlib
from typing import Any

import pytest
from client_combinations import WAYS, session_on

from tgmembership_async import CallError, UnexpectedReply, UsageError

NAME = "Год, Ünï"
PLAIN = json.dumps({"ok": True, "code": 200, "result": NAME}, ensure_ascii=False).encode()
IN_LATIN_1 = json.dumps({"ok": True, "code": 200, "result": "Ünï"}, ensure_ascii=False).encode("latin-1")
GZIPPED = gzip.compress(PLAIN)
ZLIB = zlib.compress(PLAIN)
RAW_DEFLATE = ZLIB[2:-4]
MEMBERS = gzip.compress(PLAIN[:20]) + gzip.compress(PLAIN[20:]) + bytes(512)

each_way = pytest.mark.parametrize(("way", "backend"), WAYS)
REPLIES: dict[str, tuple[list[str], bytes, str]] = {
    "gzip": (["content-encoding: gzip"], GZIPPED, NAME),
    "x-gzip, in capitals": (["Content-Encoding: X-GZIP"], GZIPPED, NAME),
    "gzip in two members and padding": (["content-encoding: gzip"], MEMBERS, NAME),
    "zlib": (["content-encoding: deflate"], ZLIB, NAME),
    "raw deflate": (["content-encoding: deflate"], RAW_DEFLATE, NAME),
    "gzip, identity": (["content-encoding: gzip, identity"], GZIPPED, NAME),
    "identity alone": (["content-encoding: identity"], PLAIN, NAME),
    "nothing named": (["content-encoding: "], PLAIN, NAME),
    "deflate, gzip": (["content-encoding: deflate, gzip"], gzip.compress(ZLIB), NAME),
    "two lines": (["content-encoding: deflate", "content-encoding: gzip"], gzip.compress(RAW_DEFLATE), NAME),
    "gzip that is none": (["content-encoding: gzip"], PLAIN, NAME),
    "gzip that lacks its checksum": (["content-encoding: gzip"], GZIPPED[:-8], NAME),
    "gzip, cut": (["content-encoding: gzip"], GZIPPED[:30], "the gzip body is incomplete"),
    "gzip, cut in its header": (["content-encoding: gzip"], GZIPPED[:5], "the gzip body is incomplete"),
    "zlib, cut": (["content-encoding: deflate"], ZLIB[:20], "the deflate body is incomplete"),
    "gzip, broken": (["content-encoding: gzip"], GZIPPED[:-8] + bytes(8), "not valid gzip"),
    "deflate, broken": (["content-encoding: deflate"], b"\xff" * 40, "not valid deflate"),
    "brotli": (["content-encoding: br"], b"\x0b\x02\x80", "'br', which is not supported"),
    "a bomb": (["content-encoding: gzip, gzip"], gzip.compress(gzip.compress(bytes(5 << 20))), "the body is too large"),
    "too long": ([], b" " * ((4 << 20) + 1), "the body is too large"),
    "UTF-8 with a byte order mark": ([], b"\xef\xbb\xbf" + PLAIN, NAME),
    "UTF-16, named": (["content-type: application/json; charset=UTF-16"], PLAIN.decode().encode("utf-16"), NAME),
    "UTF-16, not named": (["content-type: application/json"], PLAIN.decode().encode("utf-16-le"), NAME),
    "UTF-16 in gzip": (["content-encoding: gzip"], gzip.compress(PLAIN.decode().encode("utf-16")), NAME),
    "Latin-1": (['Content-Type: application/json;Charset="iso-8859-1"'], IN_LATIN_1, "Ünï"),
    "windows-1252": (["content-type: text/html; x=y; charset=windows-1252"], IN_LATIN_1, "Ünï"),
    "UTF-8 that is called Latin-1": (["content-type: application/json; charset=latin1"], PLAIN, NAME),
    "Latin-1 that is not named": (["content-type: application/json"], IN_LATIN_1, "the body is not JSON"),
    "a charset that is none": (["content-type: application/json; charset=nonsense"], IN_LATIN_1, "not JSON"),
    "a codec that is no charset": (["content-type: text/plain; charset=zlib"], b"\xff", "not JSON"),
    "a header of 90 KB": ([f"x-long: {'x' * 90_000}"], PLAIN, NAME),
    "500 headers": ([f"x-{number}: {'x' * 150}" for number in range(500)], PLAIN, NAME),
}


@each_way
def test_a_strange_reply_means_the_same_on_every_transport(way: str, serve: Any, run: Any) -> None:
    names = list(REPLIES)

    def script(connection: Any) -> None:
        while request := connection.request():
            fields, body, _ = REPLIES[names[int(request.split(b"number=")[1].split()[0])]]
            head = ["HTTP/1.1 200 OK", *fields, f"content-length: {len(body)}", "", ""]
            connection.send("\r\n".join(head).encode() + body)

    server = serve(script)
    found: dict[str, object] = {}

    async def scenario() -> None:
        async with session_on(way, server.url) as tg:
            for number, name in enumerate(names):
                try:
                    found[name] = (await tg.call("getPlans", params={"number": number})).result
                except UnexpectedReply as error:
                    expected = REPLIES[name][2]
                    found[name] = expected if expected in str(error) else error
                except CallError as error:
                    found[name] = error

    run(scenario)
    assert found == {name: expected for name, (_, _, expected) in REPLIES.items()}


@pytest.mark.parametrize("origin", ["https://[2001:db8::1]", "https://[2001:db8::1]:8443"])
@each_way
def test_an_ipv6_address_goes_to_a_proxy_in_brackets_or_not_at_all(way: str, serve: Any, run: Any, origin: str) -> None:
    def refuse(connection: Any) -> None:
        connection.request()
        connection.answer(403, b"")

    proxy = serve(refuse)

    async def scenario() -> None:
        async with session_on(way, origin, proxy=proxy.url) as tg:
            with pytest.raises((UsageError, CallError)) as told:
                await tg.add_member(1, 42)
            assert isinstance(told.value, UsageError) == ("httpx" in way)

    run(scenario)
    authority = origin.partition("//")[2] + ("" if origin.endswith("8443") else ":443")
    for request in proxy.requests:
        assert request.split()[1].decode() == authority
    assert bool(proxy.requests) == ("httpx" not in way)
