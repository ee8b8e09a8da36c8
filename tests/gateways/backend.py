"""A service that grants members, as a program of its own which shares no code with the package or its fake service.

`python backend.py '{"port": 8080, "audit": "audit.log", ...}'` serves until it is killed. Each line of the audit file
is an event, a member and the mark that the client gave the request (header `x-mark`): `arrived` once a whole request
was read, `acted` when the member was granted. Lines are only ever appended.
"""

import asyncio
import json
import os
import ssl
import sys
from collections import Counter
from random import Random
from typing import Any

FAULTS = ("slow", "fail_before", "fail_after", "close_before", "close_after")
ENDINGS = ("keep", "announced", "unannounced", "http/1.0")
"""What becomes of a connection after an answer."""


class Backend:
    """`shares` maps faults to the share of the grants that meet them; `seconds` is how long the slow ones take."""

    def __init__(self, audit: str, shares: dict[str, float], seconds: float, ending: str) -> None:
        self._audit = os.open(audit, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._shares = shares
        self._seconds = seconds
        self._ending = ending
        self._arrivals: Counter[int] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while request := await read_request(reader):
                answer = await self._answer(*request)
                if answer is None:
                    break
                writer.write(render(*answer, self._ending))
                await writer.drain()
                if self._ending != "keep":
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever asked is gone
        finally:
            writer.close()

    async def _answer(self, target: str, headers: dict[str, str], body: bytes) -> tuple[int, str] | None:
        """Return status and body, or None to close the connection without an answer."""
        if not target.endswith("/addMember"):
            return 404, '{"ok": false, "code": 404}'
        member, mark = int(json.loads(body)["member_id"]), headers.get("x-mark", "-")
        self._note("arrived", member, mark)
        self._arrivals[member] += 1
        random = Random(f"{member} {self._arrivals[member]}")
        fault = self._draw(random)
        await asyncio.sleep(random.uniform(0, 0.01))
        acts_first = random.random() < 0.5
        if fault == "slow" and not acts_first:
            await asyncio.sleep(self._seconds)
        if fault not in ("fail_before", "close_before"):
            self._note("acted", member, mark)
        if fault == "slow" and acts_first:
            await asyncio.sleep(self._seconds)
        if fault in ("close_before", "close_after"):
            return None
        if fault in ("fail_before", "fail_after"):
            return 500, "<html>something went wrong</html>"
        result = {"token": f"token-{member}-{self._arrivals[member]}"}
        return 200, json.dumps({"ok": True, "code": 200, "result": result})

    def _draw(self, random: Random) -> str:
        drawn = random.random()
        for fault in FAULTS:
            drawn -= self._shares.get(fault, 0)
            if drawn < 0:
                return fault
        return "none"

    def _note(self, event: str, member: int, mark: str) -> None:
        os.write(self._audit, f"{event} {member} {mark}\n".encode())


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
    """Return target, headers and body of the next request, or None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return first.split(" ")[1], headers, body


def render(status: int, body: str, ending: str) -> bytes:
    """Return the answer as bytes; one of HTTP/1.0 ends with its connection."""
    kind = "application/json" if body.startswith("{") else "text/html"
    lines = [f"HTTP/{'1.0' if ending == 'http/1.0' else '1.1'} {status} -", f"content-type: {kind}"]
    if ending != "http/1.0":
        lines.append(f"content-length: {len(body)}")
    if ending == "announced":
        lines.append("connection: close")
    return "\r\n".join([*lines, "", body]).encode()


async def main(port: int, certificate: str | None = None, **settings: Any) -> None:
    """Serve on a port of 127.0.0.1, with TLS where a file with key and certificate is given."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(Backend(**settings).serve, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
