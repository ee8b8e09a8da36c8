"""The Scrubber masks secrets in all encodings and escapes, and returns other input unchanged."""

import html
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from canary import CANARY_KEY
from hypothesis import given
from hypothesis import strategies as st

from tgmembership_async.values.scrubber import Scrubber

SCRUBBER = Scrubber({CANARY_KEY: "***"})
PERCENT = "".join(f"%{ord(char):02x}" for char in CANARY_KEY)
JSON = "".join(f"\\u{ord(char):04x}" for char in CANARY_KEY)
SPELLINGS = {
    "plain": CANARY_KEY.encode(),
    "%": PERCENT.encode(),
    "% in upper case": PERCENT.upper().encode(),
    "one letter of %": CANARY_KEY.replace("K", "%4b").encode(),
    "% of %": PERCENT.replace("%", "%25").encode(),
    "JSON": JSON.encode(),
    "one letter of JSON": CANARY_KEY.replace("n", "\\u006E").encode(),
    "JSON in JSON": json.dumps(JSON)[1:-1].encode(),
    "JSON of %": PERCENT.replace("%", "\\u0025").encode(),
    "UTF-16 LE": CANARY_KEY.encode("utf-16-le"),
    "UTF-16 BE": CANARY_KEY.encode("utf-16-be"),
    "UTF-16 with a mark": f"bot{CANARY_KEY}".encode("utf-16"),
    "UTF-32": CANARY_KEY.encode("utf-32"),
    "JSON in UTF-16": JSON.encode("utf-16-le"),
}


def readings(data: bytes) -> str:
    """Return all decodings of some bytes, joined."""
    stripped = data.replace(b"\0", b"").decode(errors="replace")
    return f"{data!r} {stripped} {data.decode('utf-16-le', 'replace')} {data.decode('utf-16-be', 'replace')}"


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_found(name: str) -> None:
    spelled = SPELLINGS[name]
    clean = SCRUBBER.scrub(b"before " + spelled + b" after")
    assert spelled not in clean
    assert CANARY_KEY not in readings(clean)
    assert SCRUBBER.scrub(clean) == clean


def test_what_stands_around_it_is_kept() -> None:
    reply = '{"ok":false,"code":404,"description":"%s \\u0434\\u0430 50%%25 \\/x","n":"\\u0022"}'
    for spelled in (CANARY_KEY, PERCENT, JSON):
        told = json.loads(SCRUBBER.scrub((reply % spelled).encode()))
        assert told == {"ok": False, "code": 404, "description": "*** да 50%25 /x", "n": '"'}
        wide = SCRUBBER.scrub((reply % CANARY_KEY).encode("utf-16-le"))
        assert json.loads(wide)["description"] == "*** да 50%25 /x"


@given(st.binary(max_size=200))
def test_what_has_no_secret_is_the_same(data: bytes) -> None:
    assert SCRUBBER.scrub(data) == data
    assert SCRUBBER.scrub_text(data.decode("latin-1")) == data.decode("latin-1")


def test_what_has_no_secret_and_no_escape_is_the_same_object() -> None:
    for plain in (b'{"ok": true, "result": ["\\u0434"]}', b""):
        assert SCRUBBER.scrub(plain) is plain
    text = "any"
    assert SCRUBBER.scrub_text(text) is text


def test_a_secret_in_html_is_found_beside_other_entities() -> None:
    secret = 'a"b&c<d'
    scrubber = Scrubber({secret: "***"})
    for spelled in (secret, html.escape(secret), html.escape(html.escape(secret))):
        clean = scrubber.scrub_text(f"this &amp; {spelled} &lt;that")
        assert "***" in clean
        assert secret not in html.unescape(clean)


@pytest.mark.parametrize("levels", range(1, 8))
def test_escapes_of_escapes_are_undone_as_often_as_is_promised(levels: int) -> None:
    spelled = PERCENT.replace("%", "%" + levels * "25")
    clean = SCRUBBER.scrub_text(spelled)
    assert CANARY_KEY not in clean
    assert ("***" in clean) is (levels < 3)


SPELL: tuple[Callable[[str], str], ...] = (
    str,
    lambda char: quote(char, safe=""),
    lambda char: char if quote(char, safe="") == char else quote(char, safe="").lower(),
    lambda char: json.dumps(char)[1:-1],
    lambda char: json.dumps(char).upper().replace("\\U", "\\u")[1:-1] if not char.isascii() else char,
    html.escape,
    lambda char: char.replace("/", "\\/"),
    lambda char: "".join(f"%{byte:02x}" for byte in char.encode()),
)


@given(
    st.text(
        st.characters(codec="utf-8", exclude_characters="*", exclude_categories=["Cc", "Cs"]), min_size=4, max_size=12
    ),
    st.lists(st.sampled_from(range(len(SPELL))), min_size=12, max_size=12),
)
def test_every_mixture_of_spellings_is_found(secret: str, ways: list[int]) -> None:
    scrubber = Scrubber({secret: "***"})
    spelled = "".join(SPELL[way](char) for way, char in zip(ways, secret, strict=False))
    clean = scrubber.scrub_text(f"<{spelled}>")
    # Where it also stands in its own spelling, as 0000 in %30000, that is what is replaced.
    assert clean == "<***>" or (secret in spelled and "***" in clean and secret not in clean)


@pytest.mark.parametrize(("last", "escaped"), [("&", "&amp;"), ("%", "%25"), ("\\", "\\u005c"), ('"', "&quot;")])
def test_nothing_stays_of_an_escape_at_the_end(last: str, escaped: str) -> None:
    assert Scrubber({f"000:{last}": "***"}).scrub_text(f"<000%3A{escaped}>") == "<***>"


def test_the_longest_comes_first_and_nothing_is_shown() -> None:
    scrubber = Scrubber({"abc": "-", "abcdef": "+", "": "never"})
    assert scrubber.scrub(b"abcdef abc \0") == b"+ - \0"
    assert repr(scrubber) == "<Scrubber of 2 secret(s)>"
    assert scrubber.scrub_text("\udcff abc") == "\udcff -"
