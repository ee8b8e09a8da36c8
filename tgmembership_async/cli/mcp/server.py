"""The tools and resources as a server of the Model Context Protocol, on stdin and stdout. Needs the extra `mcp`."""

import logging
from collections.abc import Callable
from functools import wraps
from inspect import getdoc
from typing import Any, Final

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from tgmembership_async.cli.mcp.answers import WARNING, clean, error_text
from tgmembership_async.cli.mcp.knowledge import error_catalogue, service_page
from tgmembership_async.cli.mcp.tools import Tool, Tools
from tgmembership_async.errors import TGMembershipError
from tgmembership_async.version import __version__

_INSTRUCTIONS: Final = f"""\
TGmembership sells access to Telegram chats. This server knows one bot and, if started with a ledger, its grants. A
grant whose outcome is unknown may or may not have given access: never repeat it by other means, read its history, and
let your user decide. The resource tgmembership://errors explains each error; tgmembership://service lists what is
known about the service: documented, seen or assumed. {WARNING}"""
_READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=True)
_DECIDES: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
_RESOURCES: Final[dict[str, tuple[str, Callable[[], str]]]] = {
    "errors": ("All errors: class, meaning, and the advice what to do about them", error_catalogue),
    "service": ("What is known of TGmembership's API: documented, seen or assumed", service_page),
}
_logger: Final = logging.getLogger("tgmembership_async.cli.mcp")


def server(tools: Tools, *, decisions: bool) -> MCPServer[Any]:
    """Return the server; with `decisions`, the assistant may resolve grants."""
    made: MCPServer[Any] = MCPServer("tgmembership", version=__version__, instructions=_INSTRUCTIONS)
    kinds = [(tools.reads(), _READS), (tools.decisions() if decisions else [], _DECIDES)]
    for tool, annotations in ((tool, annotations) for found, annotations in kinds for tool in found):
        made.add_tool(_logged(tool, links=tools.links), description=getdoc(tool), annotations=annotations)
    for name, (text, read) in _RESOURCES.items():
        made.resource(f"tgmembership://{name}", name=name, description=text, mime_type="text/markdown")(read)
    return made


def _logged(tool: Tool, *, links: bool) -> Tool:
    """Return a tool that logs each call and its end, and whose errors say what to do."""

    @wraps(tool)
    async def run(**arguments: Any) -> dict[str, Any]:
        asked = f"{tool.__name__} {clean(str(arguments), links=False)}"
        try:
            answer = await tool(**arguments)
        except TGMembershipError as error:
            text = error_text(error, links=links)
            _logger.warning("%s: %s", asked, error_text(error, links=False))
        except Exception:
            text = "unexpected error; the log of the server has its traceback"
            _logger.exception("%s", asked)
        else:
            _logger.info("%s: answered", asked)
            return answer
        raise ToolError(text)

    return run
