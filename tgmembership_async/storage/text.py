"""Escape characters of foreign text that a database cannot store."""


def storable(text: str) -> str:
    """Return a text in a form that every database stores: NUL and lone surrogates are escaped."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
