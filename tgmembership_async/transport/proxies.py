"""Choose the proxy: a given URL, or the one of the environment variables; none for http://.

An http:// request contains the API key in clear text, which a proxy would read. So it is sent without a proxy, and only
to loopback addresses.
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
    """Return a proxy URL with one of the `schemes`, or raise UsageError, which does not show the URL."""
    parts = split_url(url)
    if (
        parts is None
        or parts.scheme not in schemes
        or not parts.hostname
        or parts.port == 0
        or f"{parts.path}{parts.query}{parts.fragment}".strip("/")  # perhaps of a password with a bare '/', '?' or '#'
    ):
        msg = f"proxy must be None, 'env' or a URL with a scheme of {', '.join(schemes)}, a host and no path"
        raise UsageError(msg)
    if parts.scheme in HTTP_SCHEMES and ":" in unquote(parts.username or ""):
        msg = "the user name in the proxy URL must not contain a colon, which separates it from the password in HTTP"
        raise UsageError(msg)
    return str(url)


def route(account: Account, proxy: Secret | None, schemes: tuple[str, ...]) -> str | None:
    """Return the checked proxy URL for `account`, or None; `proxy` is a URL, None, or "env"."""
    check_no_proxy(account.scheme, None if proxy is None else proxy.reveal())
    url = proxy_url(account, proxy)
    return None if url is None else check_proxy(url, schemes)


def proxy_url(account: Account, proxy: Secret | None) -> str | None:
    """Return the proxy URL for `account` without checking it."""
    url = None if proxy is None else proxy.reveal()
    return proxy_for(account) if url == "env" else url


def masks_of(url: str | None) -> dict[str, str]:
    """Return the secrets of a proxy URL with their masks: the password, and the Basic credentials."""
    parts = None if url is None else split_url(url)
    if parts is None or not parts.password:
        return {}
    password = unquote(parts.password)
    return dict.fromkeys((basic_credentials(unquote(parts.username or ""), password), password), "***")


def basic_credentials(user: str, password: str) -> str:
    """Return the credentials for a proxy as HTTP sends them after `Basic`."""
    return b64encode(f"{user}:{password}".encode(errors="surrogatepass")).decode()


def check_no_proxy(scheme: str, proxy: object) -> None:
    """Raise UsageError for an explicit proxy with http://; there, the environment variables are ignored."""
    if scheme == "http" and proxy not in (None, "env"):
        msg = "with an http:// base_url, proxy must be None or 'env': a proxy would read the API key in the request"
        raise UsageError(msg)


def non_loopback_refusal(scheme: str, address: Any) -> str | None:
    """Return an error message if `scheme` is http and a connected socket address is not a loopback one, or None.

    A host name such as localhost may resolve to any address. The address of a Unix socket is not a tuple.
    """
    if scheme != "http" or not isinstance(address, tuple):
        return None
    host = str(cast("tuple[object, ...]", address)[0])
    if is_loopback(host):
        return None
    return (
        f"nothing was sent: the host of the http:// base_url has the address {host}, not a loopback one; use https://"
    )


def proxy_for(account: Account) -> str | None:
    """Return the unchecked proxy URL for `account` from the environment variables; None for http://."""
    if account.scheme == "http":
        return None
    proxies = getproxies()
    url = proxies.get(account.scheme) or proxies.get("all")
    if not url or proxy_bypass(account.authority):
        return None
    return url if "://" in url else f"http://{url}"
