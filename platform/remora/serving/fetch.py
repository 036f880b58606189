"""Pictures by https, from hosts that the endpoint's settings name (`image_hosts`); without them nothing is fetched.

A URL is parsed once, by rules so narrow that no two parsers can read it differently. The connection goes to the address
that was checked, not to the name a second time, with the name in TLS and in `Host`. A redirect is a URL like the first.
Bytes, seconds, redirects and downloads at a time are bounded. What a server calls its file says nothing: it is decoded
like any other (images.py). No Ray here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

import httpx

from remora.serving.args import Limits
from remora.serving.openai_api import Refusal

AT_ONCE = 8
"""Requests whose pictures are fetched at a time."""
REDIRECTS = 3
USER_AGENT = "remora"
_URL = re.compile(r"https://(?P<host>[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?(?P<target>[/?][!-\[\]-~]*)?", re.ASCII)
"""No user, no backslash, no space or control character, no escapes in the host, no IPv6 literal."""
_METADATA = frozenset({"168.63.129.16"})
"""Addresses inside a cloud that are public by their number: Azure's."""

Resolving = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host's name and a port to its addresses."""


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, and so is every IPv4 address that it carries within."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # with a zone: link-local
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        carried = [found.sixtofour, *(found.teredo or ())]
        # What is reserved holds the other forms with an IPv4 address: ::7f00:1, 64:ff9b::7f00:1.
        if found.is_site_local or not all(is_public(str(one)) for one in carried if one is not None):
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved and address not in _METADATA


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, by the machine's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True)
class _Place:
    """A URL in parts."""

    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        return self.host if self.port == 443 else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}{self.target}"


class Fetcher:
    """Fetches pictures from `hosts`. `resolving`, `allowed` and `tls` are for tests on loopback."""

    def __init__(
        self,
        hosts: Sequence[str],
        limits: Limits,
        resolving: Resolving = resolve,
        allowed: Callable[[str], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts, self.limits = tuple(hosts), limits
        self.resolving, self.allowed = resolving, allowed
        self.tls = tls or httpx.create_ssl_context(trust_env=False)
        self.places = asyncio.Semaphore(AT_ONCE)

    async def fill(self, messages: Sequence[object]) -> None:
        """Replace the https URLs in a request's messages by the bytes that are there.

        Raises:
            Refusal: 400, a host that is not named, or a picture that cannot be had within the limits.
        """
        wanted = [(part, url) for part, url in _pictures(messages) if url.strip()[:6].lower() == "https:"]
        if not wanted:
            return
        if len(wanted) > self.limits.max_images:
            raise _refuse(
                f"a request may have {self.limits.max_images} images; this one has {len(wanted)}", "too_many_images"
            )
        for _, url in wanted:
            self.place(url.strip())  # all are checked before the first is fetched
        try:
            async with asyncio.timeout(self.limits.fetch_seconds), self.places:
                left = self.limits.max_body_bytes
                for part, url in wanted:
                    data = await self.fetch(url.strip(), min(left, self.limits.max_image_bytes))
                    left -= len(data)
                    part["image_url"] = data
        except TimeoutError:
            seconds = f"{self.limits.fetch_seconds:g}"
            raise _refuse(f"the images did not come within {seconds} seconds; send them as data: URLs") from None

    def place(self, url: str) -> _Place:
        """A URL in parts, if its host is one of `hosts`.

        Raises:
            Refusal: 400, it is not.
        """
        found = _URL.fullmatch(url.partition("#")[0])
        if found is None:
            raise _refuse(
                f"image URL {url[:60]!r}: expected https://HOST/PATH in ASCII, without user, backslash or spaces",
                "invalid_image_url",
            )
        target = found["target"] or "/"
        place = _Place(found["host"].lower(), int(found["port"] or 443), target if target[0] == "/" else f"/{target}")
        if not any(_covers(host, place) for host in self.hosts):
            raise _refuse(
                f"images are not fetched from {place.authority[:80]!r}; send them as data: URLs, or from one of "
                f"{', '.join(self.hosts)}",
                "image_host_not_allowed",
            )
        return place

    async def fetch(self, url: str, most: int) -> bytes:
        """The file at a URL, of at most `most` bytes.

        Raises:
            Refusal: 400, it cannot be had.
        """
        place = self.place(url)
        for _ in range(REDIRECTS + 1):
            found = await self._asked(place, await self._address(place), most)
            if isinstance(found, bytes):
                return found
            if "\\" in found:
                raise _refuse("an image's redirect is not followed: it has a backslash", "invalid_image_url")
            place = self.place(urljoin(place.url, found))
        raise _refuse(f"an image is redirected more than {REDIRECTS} times")

    async def _address(self, place: _Place) -> str:
        """Its checked address. One that is not public refuses the host: no choice is left to who answers the name."""
        try:
            found = await self.resolving(place.host, place.port)
        except (OSError, UnicodeError):
            found = ()
        if not found or not all(map(self.allowed, found)):
            raise _refuse(f"the host {place.host[:80]!r} has no public address", "image_host_not_allowed")
        return found[0]

    async def _asked(self, place: _Place, address: str, most: int) -> bytes | str:
        """The file, or where it is redirected to."""
        url = httpx.URL(scheme="https", host=address, port=place.port, raw_path=place.target.encode("ascii"))
        headers = {
            "Host": place.authority,
            "User-Agent": USER_AGENT,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }
        extensions = {"sni_hostname": place.host}
        transport = httpx.AsyncHTTPTransport(verify=self.tls, trust_env=False, retries=0)
        timeout = httpx.Timeout(self.limits.fetch_seconds)
        try:
            async with (
                httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client,
                client.stream("GET", url, headers=headers, extensions=extensions) as response,
            ):
                if response.is_redirect:
                    return response.headers.get("location", "")
                if response.status_code != 200:
                    raise _refuse(f"the image at {place.host[:80]!r} cannot be had: status {response.status_code}")
                data = bytearray()
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > most:
                        raise _refuse(f"an image may have {most} bytes; one at {place.host[:80]!r} has more")
                return bytes(data)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
            raise _refuse(f"the image at {place.host[:80]!r} cannot be had: no answer by HTTPS") from None


def _covers(host: str, place: _Place) -> bool:
    name, _, port = host.partition(":")
    if int(port or 443) != place.port:
        return False
    return place.host.endswith(name[1:]) if name.startswith("*.") else place.host == name


def _pictures(messages: Sequence[object]) -> list[tuple[dict[str, object], str]]:
    """The parts with a picture by URL; messages.py refuses what is of another form."""
    found = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                shown = part.get("image_url")
                url = shown.get("url") if isinstance(shown, dict) else shown
                if isinstance(url, str):
                    found.append((part, url))
    return found


def _refuse(message: str, code: str = "image_not_fetched") -> Refusal:
    return Refusal(message, code=code, param="messages")
