"""Which proxy to go through: a URL that was told, or what the environment says."""

from typing import Final
from urllib.request import getproxies, proxy_bypass

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import split_url
from tgmembership_async.protocol.wire import Account

HTTP_SCHEMES: Final = ("http", "https")
SOCKS_SCHEMES: Final = ("socks5", "socks5h")


def check_proxy(url: object, schemes: tuple[str, ...]) -> str:
    """Return a proxy URL with one of the `schemes`, or raise UsageError; its password is not shown."""
    parts = split_url(url)
    if parts is None or parts.scheme not in schemes or not parts.hostname or parts.port == 0:
        msg = f"proxy must be None, 'env' or a URL with one of the schemes {', '.join(schemes)} and a host"
        raise UsageError(msg)
    return str(url)


def proxy_for(account: Account) -> str | None:
    """Return the proxy URL that the environment has for `account`, unchecked, or None."""
    proxies = getproxies()
    url = proxies.get(account.scheme) or proxies.get("all")
    if not url or proxy_bypass(account.authority):
        return None
    return url if "://" in url else f"http://{url}"
