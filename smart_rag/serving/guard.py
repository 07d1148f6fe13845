"""Who may ask: the name by which the server is reached, the site that a request comes from, and the token."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.types import Scope

from smart_rag.serving.problems import Refused
from smart_rag.serving.settings import ServerSettings, address_of, is_loopback

# Programs that watch containers have no token, and learn nothing here. Nor does who opens the page: it holds no data.
_OPEN = ("/", "/health")
_OPEN_BELOW = "/assets/"


class Guard:
    """The rules of a server with these ``settings``.

    A browser sends requests for any page that it shows. A hostile page can give its own name the address of this
    machine (DNS rebinding). Then its requests have the page's name as ``Host``. An address cannot be rebound, so every
    address is allowed as ``Host``, but only known names.

    The site of a page is compared with the address and the names of the server, and never with ``Host``.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._host = settings.host.lower()
        self._names = {"localhost", *(name.lower() for name in settings.allowed_hosts)}
        self._foreign = {name.lower() for name in settings.allowed_hosts}
        if address_of(self._host) is None:
            self._names.add(self._host)
        self._token = None if settings.token is None else settings.token.encode()
        self._cookie = "" if settings.token is None else cookie_value(settings.token)

    def check(self, scope: Scope) -> None:
        """Raise `Refused` unless the request in ``scope`` may be answered."""
        headers = _headers(scope)
        host = _split(headers.get("host", ""))[0]
        if host not in self._names and address_of(host) is None:
            raise Refused(
                421,
                f"this server is not known as {host[:100]!r}; ask for it by its address, or start it with "
                "--allowed-hosts and this name",
            )
        self._check_site(scope, headers)
        if self._token is None or scope["path"] in _OPEN or scope["path"].startswith(_OPEN_BELOW):
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            is_known = hmac.compare_digest(given.strip().encode("latin-1"), self._token)
        else:
            is_known = hmac.compare_digest(_cookie(scope, headers).encode("latin-1"), self._cookie.encode())
        if not is_known:
            raise Refused(401, "this server needs a token; send the header Authorization: Bearer TOKEN")

    def _check_site(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Raise `Refused` if a browser sends the request for the page of another site."""
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and not _follows_link(
                scope, headers
            ):
                raise Refused(403, "a page of another site may not use this server")
            return
        host, port = _split(origin.partition("://")[2] if origin.startswith(("http://", "https://")) else "")
        address, own_port = scope.get("server") or ("", None)
        is_own = port in (None, own_port) if own_port in (80, 443) else port == own_port
        known = host in self._names or host == self._host or (address_of(host) is not None and host == address)
        loopback = is_loopback(host) and is_loopback(str(address))
        # Behind a proxy, the port is the proxy's.
        if host in self._foreign or (is_own and (known or loopback)):
            return
        raise Refused(403, "a page of another site may not use this server")


def cookie_name(scope: Scope) -> str:
    """Return the name of the cookie of a signed-in browser. Servers on several ports of one host share its cookies."""
    return f"smart_rag_{(scope.get('server') or ('', 0))[1]}"


def cookie_value(token: str) -> str:
    """Return the value of the cookie. It is the same in all workers, and does not tell the token."""
    return hmac.new(token.encode(), b"smart_rag browser session", hashlib.sha256).hexdigest()


def _cookie(scope: Scope, headers: Mapping[str, str]) -> str:
    """Return the value of the cookie in a request, or an empty text."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(cookie_name(scope))
    except CookieError:
        return ""
    return "" if found is None else found.value


def _follows_link(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Return whether somebody opens the page by a link on another site. The page itself holds no data of an index."""
    is_top = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return is_top and scope["method"] == "GET" and scope["path"] == "/"


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers of a request. Of several with one name, return the first."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


def _split(netloc: str) -> tuple[str, int | None]:
    """Return the host in lower case, without brackets, and the port, if there is one."""
    try:
        parts = urlsplit(f"//{netloc}")
        return (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "", None
