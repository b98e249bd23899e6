"""Requests to a server and streams of events; its errors are raised as a local session raises them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from medsam2.errors import InputError, MedSAM2Error, ServerError, SessionError
from medsam2.proxies import proxy_for

if TYPE_CHECKING:
    import httpx


def events_of(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each event of a `text/event-stream`, as it comes.

    Args:
        lines: Without their ends.
    """
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


Json = Mapping[str, object]
_CONNECT_S = 10.0
_LATER = (408, 429)
_SHOWN = 200  # letters of an answer that is not ours


class Connection:
    """One server and one key; proxies of the environment are used unless the server is this machine.

    Args:
        url: Of the server, `http://127.0.0.1:8000`.
        key: The server's key, if it needs one.
        timeout_s: How long to wait for the next part of an answer.

    Raises:
        InputError: The URL is none, or httpx or what it needs for the environment's proxy is not installed.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float) -> None:
        try:
            import httpx
        except ImportError as error:
            raise InputError("asking a server needs httpx: pip install 'medsam2[client]'") from error
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url!r} is not a server's URL; http://HOST:PORT or https://HOST is expected")
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InputError(f"{url!r} is not a URL ({error}); http://HOST:PORT is expected") from error
        self.url = url.rstrip("/")
        proxy = proxy_for(str(parsed))
        self.shown = self.url
        """The server in messages, with the proxy that leads to it."""
        if proxy is not None:
            self.shown += f" (through {proxy}; NO_PROXY={parsed.host} asks it directly)"
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_S)
        try:
            # The environment's certificates count, its proxies only as `proxy_for` says.
            self._client = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=timeout,
                verify=httpx.create_ssl_context(),
                trust_env=False,
                proxy=None if proxy is None else proxy.url,
            )
        except ImportError as error:
            raise InputError(
                f"{self.url} is reached through {proxy}, which needs one more package: "
                f"pip install 'httpx[socks]'; or set NO_PROXY={parsed.host} to ask it directly"
            ) from error
        except (ValueError, httpx.InvalidURL) as error:
            raise InputError(
                f"{proxy} is not a proxy's URL (http://HOST:PORT or socks5://HOST:PORT is expected); "
                f"or set NO_PROXY={parsed.host} to ask {self.url} directly"
            ) from error

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        file: IO[bytes] | None = None,
    ) -> bytes:
        """Send a request and return the answer's body.

        Args:
            method: The HTTP method.
            path: From the server's root.
            query: The query's keys and values.
            body: Sent as JSON.
            file: Sent as it is, in place of JSON.

        Raises:
            InputError: The server refuses what was sent.
            SessionError: There is no such session, or its state does not allow this.
            ServerError: The server is not there, is busy or has failed.
        """
        with self.stream(method, path, query=query, body=body, file=file) as response:
            return response.read()

    def request_json(self, method: str, path: str, *, body: object = None) -> Json:
        """Send a request whose answer is an object; see `request`."""
        return json_of(self.request(method, path, body=body), self.shown)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        file: IO[bytes] | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request and read the answer as it comes; leaving early ends it. See `request`."""
        import httpx

        headers = {} if file is None else {"Content-Type": "application/octet-stream"}
        try:
            with self._client.stream(
                method, path, params=query, json=body, content=file, headers=headers
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    raise problem(
                        response.status_code, _sentence(response, self.shown), _retry_after(response)
                    )
                yield response
        except httpx.TimeoutException as error:
            raise ServerError(f"{self.shown} does not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(f"{self.shown} cannot be reached: {error or type(error).__name__}") from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def problem(status: int, sentence: str, retry_after_s: int | None = None) -> MedSAM2Error:
    """The exception that a status stands for, with the server's sentence."""
    if status in (404, 409):
        return SessionError(sentence)
    if status in _LATER or status >= 500:
        return ServerError(sentence, retry_after_s=retry_after_s)
    return InputError(sentence)


def json_of(body: str | bytes, url: str) -> Json:
    """Read an object.

    Raises:
        ServerError: It is none: something else answers there.
    """
    try:
        answer: object = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ServerError(f"{url} does not answer as a medsam2 server does; is it one?")
    return cast(Json, answer)


def _sentence(response: httpx.Response, url: str) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"{url} answers {response.status_code}: {response.text[:_SHOWN]}"


def _retry_after(response: httpx.Response) -> int | None:
    value = response.headers.get("retry-after", "")
    return int(value) if value.isdecimal() else None
