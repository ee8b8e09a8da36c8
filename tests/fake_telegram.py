"""A fake Telegram Bot API over HTTP, with the methods that a bot selling for Stars needs."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

TOKEN = "42:fake-bot-token"
BOT = {"id": 42, "is_bot": True, "first_name": "Shop", "username": "shop_bot"}
CUSTOMER: dict[str, Any] = {"id": 777, "is_bot": False, "first_name": "Ann"}
INVOICE_LINK = "https://t.me/$an-invoice"
LONG_POLL = 0.3  # seconds; a bot that is stopped waits at most so long


class FakeTelegram:
    """A server on the running loop, as a context manager: queue updates with `send`, and read `calls`.

    An update is handed out until a `getUpdates` with a higher offset confirms it, as Telegram does. Calls to a method
    in `paused` arrive and are not answered, until `resume`. Calls for which `refuse` returns a text are refused with
    it.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.paused: set[str] = set()
        self.refuse: Callable[[str, dict[str, Any]], str | None] = lambda _method, _arguments: None
        self.updates: list[dict[str, Any]] = []
        self._sent: dict[int, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._news = asyncio.Event()
        self._answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "getMe": lambda _: BOT,
            "sendMessage": self._message,
            "sendInvoice": self._message,
            "createInvoiceLink": lambda _: INVOICE_LINK,
        }

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post(f"/bot{TOKEN}/{{method}}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.resume()
        await self._runner.cleanup()

    def send(self, **update: Any) -> int:
        """Queue an update for the bot, and return its number."""
        number = next(self._numbers)
        self._sent[number] = {"update_id": number, **update}
        self.repeat(number)
        return number

    def repeat(self, number: int) -> None:
        """Deliver an update again, as if the bot had not confirmed it."""
        self.updates.append(self._sent[number])
        self._tell()

    def write(self, text: str, *, user_id: int = CUSTOMER["id"], language: str | None = None) -> int:
        """Let the customer, or somebody else, write to the bot."""
        message = self._from_customer(text=text, entities=_commands(text))
        return self.send(message={**message, "from": {**CUSTOMER, "id": user_id, "language_code": language}})

    def press(self, data: str, *, user_id: int = CUSTOMER["id"], language: str | None = None) -> int:
        """Let somebody press a button."""
        sender = {**CUSTOMER, "id": user_id, "language_code": language}
        message = {**self._from_customer(text="with buttons"), "from": BOT}
        return self.send(
            callback_query={"id": "1", "from": sender, "message": message, "chat_instance": "1", "data": data}
        )

    def check_out(self, payload: str, *, amount: int = 250, currency: str = "XTR") -> int:
        """Ask the bot whether the customer may pay."""
        query = {"id": "1", "from": CUSTOMER, "currency": currency, "total_amount": amount, "invoice_payload": payload}
        return self.send(pre_checkout_query=query)

    def pay(
        self, payload: str, *, charge: str = "stars-1", amount: int = 250, user_id: int = CUSTOMER["id"], **more: Any
    ) -> int:
        """Tell the bot that the customer, or somebody else, has paid."""
        payment = self._from_customer(successful_payment=_payment(payload, charge, amount, **more))
        user = {"from": {**CUSTOMER, "id": user_id}, "chat": {"id": user_id, "type": "private"}}
        return self.send(message={**payment, **user})

    def refund(self, payload: str, *, charge: str = "stars-1", amount: int = 250) -> int:
        """Tell the bot that the customer has got the money back."""
        return self.send(message={**self._from_customer(refunded_payment=_payment(payload, charge, amount))})

    def said(self, method: str = "sendMessage") -> list[dict[str, Any]]:
        """Return the bot's calls of a method, in order."""
        return [arguments for name, arguments in self.calls if name == method]

    @property
    def sent(self) -> int:
        """Return how many updates were queued so far."""
        return len(self._sent)

    async def until(self, done: Callable[[], object], seconds: float = 180) -> None:
        """Wait until `done` is true; it is checked after each call of the bot."""
        async with asyncio.timeout(seconds):
            while not done():
                await self._news.wait()

    def resume(self) -> None:
        """Answer the calls that were held back."""
        self.paused.clear()
        self._tell()

    def confirmed(self, number: int) -> bool:
        """Tell whether the bot has confirmed an update."""
        return all(update["update_id"] != number for update in self.updates)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _from_customer(self, **fields: Any) -> dict[str, Any]:
        chat = {"id": CUSTOMER["id"], "type": "private"}
        return {"message_id": next(self._numbers), "date": 1_700_000_000, "chat": chat, "from": CUSTOMER, **fields}

    async def _handle(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        arguments = {name: _decoded(str(value)) for name, value in (await request.post()).items()}
        if method == "getUpdates":
            return _answer(await self._get_updates(int(arguments.get("offset", 0))))
        self.calls.append((method, arguments))
        self._tell()
        while method in self.paused:
            await self._news.wait()
        refusal = self.refuse(method, arguments)
        if refusal is not None:
            return web.json_response({"ok": False, "error_code": 400, "description": refusal}, status=400)
        answer = self._answers.get(method)
        return _answer(True if answer is None else answer(arguments))

    async def _get_updates(self, offset: int) -> list[dict[str, Any]]:
        self.updates = [update for update in self.updates if update["update_id"] >= offset]
        self._tell()
        if not self.updates:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LONG_POLL)
        return self.updates

    def _message(self, arguments: dict[str, Any]) -> dict[str, Any]:
        chat = {"id": arguments["chat_id"], "type": "private"}
        return {"message_id": next(self._numbers), "date": 1_700_000_000, "chat": chat, "text": "sent"}


def _payment(payload: str, charge: str, amount: int, **more: Any) -> dict[str, Any]:
    return {
        "currency": "XTR",
        "total_amount": amount,
        "invoice_payload": payload,
        "telegram_payment_charge_id": charge,
        "provider_payment_charge_id": "",
        **more,
    }


def _commands(text: str) -> list[dict[str, Any]]:
    command = text.split(maxsplit=1)[0]
    return [{"type": "bot_command", "offset": 0, "length": len(command)}] if command.startswith("/") else []


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _answer(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})
