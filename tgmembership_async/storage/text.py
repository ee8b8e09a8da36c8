"""Text that comes from elsewhere, made fit for a database."""


def storable(text: str) -> str:
    """Return a text as any database keeps it: without NUL and without halves of surrogate pairs."""
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
