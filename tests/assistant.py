"""Drive `tgmembership mcp` as an assistant does: in its own process, with the client of the package `mcp`."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import frozen
from forked import program

from tgmembership_async.grants import GrantRequest, Ledger, PostgresLedger, SqliteLedger
from tgmembership_async.grants.model import GrantStatus, Settlement

if TYPE_CHECKING:
    from mcp.client.client import Client

ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONUTF8": "1", "NO_PROXY": "*", "TGMEMBERSHIP_LEDGER": ""}


@frozen
class Assistant:
    """A client of a running server, whose log is in `log`."""

    log: Path
    _client: "Client"
    _portal: BlockingPortal

    @property
    def instructions(self) -> str:
        return self._client.instructions or ""

    def tools(self) -> dict[str, Any]:
        """Return the tools by name."""
        return {tool.name: tool for tool in self._portal.call(self._client.list_tools).tools}

    def resources(self) -> list[str]:
        """Return the addresses of the resources."""
        return [str(one.uri) for one in self._portal.call(self._client.list_resources).resources]

    def read(self, uri: str) -> str:
        """Return the text of a resource."""
        (content,) = self._portal.call(self._client.read_resource, uri).contents
        return str(getattr(content, "text", None))

    def call(self, tool: str, **arguments: Any) -> Any:
        """Return the result of a tool, as the protocol has it."""
        return self._portal.call(self._client.call_tool, tool, arguments)

    def ask(self, tool: str, **arguments: Any) -> Any:
        """Return what a tool answers, without the warning around it."""
        result = self.call(tool, **arguments)
        assert not result.is_error, result.content
        assert result.structured_content.keys() == {"warning", "untrusted"}
        return result.structured_content["untrusted"]

    def refused(self, tool: str, **arguments: Any) -> str:
        """Return the text of the error that a tool ends with."""
        result = self.call(tool, **arguments)
        assert result.is_error, result.structured_content
        return str(result.content[0].text)


@contextmanager
def assistant(folder: Path, environment: Mapping[str, str], *arguments: str) -> Iterator[Assistant]:
    """Start the server with these arguments, and end it as clients do: by closing its stdin."""
    from mcp.client.client import Client  # noqa: PLC0415 - it takes a second, and every worker collects these tests
    from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: PLC0415

    log = folder / "server.log"
    command, *words = program("-m", "tgmembership_async.cli", *arguments)
    parameters = StdioServerParameters(command=command, args=words, env=ENVIRONMENT | dict(environment))
    with (
        log.open("w", encoding="utf-8") as errors,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Client(stdio_client(parameters, errlog=errors))) as client,
    ):
        yield Assistant(log, client, portal)


@contextmanager
def owned_ledger(place: Path | str, rows: Mapping[GrantRequest, Settlement | None]) -> Iterator[None]:
    """Own a ledger as a bot does, with these rows: planned, or sent with this outcome."""

    async def fill(ledger: Ledger) -> None:
        for request, settlement in rows.items():
            if settlement is None:
                await ledger.plan(request)
                continue
            await ledger.claim(request)
            await ledger.settle(request.ref, settlement)
            if settlement.status is GrantStatus.GRANTED and request.ref.startswith("delivered"):
                await ledger.mark_delivered(request.ref)

    owned: SqliteLedger | PostgresLedger = SqliteLedger(place) if isinstance(place, Path) else PostgresLedger(place)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(owned):
        portal.call(fill, owned)
        yield
