"""Which proxy to go through: a URL that was told, or what the environment says; and none for http://.

An http:// request has the key in its first line, in clear, and a proxy would read it. It goes to loopback only, without
a proxy, and to an address that is this machine's own.
"""

from base64 import b64encode
from typing import Any, Final, cast
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

from tgmembership_async.errors import UsageError
from tgmembership_async.protocol.endpoints import is_loopback, split_url
from tgmembership_async.protocol.wire import Account
from tgmembership_async.values.secret import Secret, hides_arguments

HTTP_SCHEMES: Final = ("http", "https")
SOCKS_SCHEMES: Final = ("socks5", "socks5h")


@hides_arguments
def check_proxy(url: object, schemes: tuple[str, ...]) -> str:
    """Return a proxy URL with one of the `schemes`, or raise UsageError; its password is not shown."""
    parts = split_url(url)
    if (
        parts is None
        or parts.scheme not in schemes
        or not parts.hostname
        or parts.port == 0
        or f"{parts.path}{parts.query}{parts.fragment}".strip("/")  # the end of a password with a bare '/', '?' or '#'
    ):
        msg = (
            f"proxy must be None, 'env' or a URL with one of the schemes {', '.join(schemes)} and a host, without path"
        )
        raise UsageError(msg)
    if parts.scheme in HTTP_SCHEMES and ":" in unquote(parts.username or ""):
        msg = "the user name in the proxy's URL holds a colon, which HTTP cannot tell from the password's"
        raise UsageError(msg)
    return str(url)


def route(account: Account, proxy: Secret | None, schemes: tuple[str, ...]) -> str | None:
    """Return the checked proxy URL for `account`, or None; `proxy` is a URL, None, or "env"."""
    check_straight(account.scheme, None if proxy is None else proxy.reveal())
    url = proxy_url(account, proxy)
    return None if url is None else check_proxy(url, schemes)


def proxy_url(account: Account, proxy: Secret | None) -> str | None:
    """Return the same, unchecked."""
    told = None if proxy is None else proxy.reveal()
    return proxy_for(account) if told == "env" else told


def masks_of(url: str | None) -> dict[str, str]:
    """Return the secrets of a proxy URL with their masks: its password, and both as HTTP sends them."""
    parts = None if url is None else split_url(url)
    if parts is None or not parts.password:
        return {}
    user, password = unquote(parts.username or ""), unquote(parts.password)
    basic = b64encode(f"{user}:{password}".encode(errors="surrogatepass")).decode()
    return dict.fromkeys((basic, password), "***")


def check_straight(scheme: str, told: object) -> None:
    """Raise UsageError where a proxy is told for http://. What the environment says is not followed there."""
    if scheme == "http" and told not in (None, "env"):
        msg = "with an http:// base_url, proxy must be None or 'env': a proxy would read the API key in the request"
        raise UsageError(msg)


def elsewhere(scheme: str, address: Any) -> str | None:
    """Return why nothing may be sent to a connected socket address, or None: http:// is for this machine only.

    A host name such as localhost may resolve to any address. The address of a Unix socket is no tuple.
    """
    if scheme != "http" or not isinstance(address, tuple):
        return None
    host = str(cast("tuple[object, ...]", address)[0])
    if is_loopback(host):
        return None
    return f"the host of an http:// base_url is at {host}, which is not this machine: nothing was sent, use https://"


def proxy_for(account: Account) -> str | None:
    """Return the proxy URL that the environment has for `account`, unchecked, or None; for http:// there is none."""
    if account.scheme == "http":
        return None
    proxies = getproxies()
    url = proxies.get(account.scheme) or proxies.get("all")
    if not url or proxy_bypass(account.authority):
        return None
    return url if "://" in url else f"http://{url}"
