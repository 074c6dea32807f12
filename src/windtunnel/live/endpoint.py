"""An OpenAI-compatible endpoint: what to send to it, and whether it is what the user thinks."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from windtunnel.errors import MissingDependencyError, Problem, SpecError, nearest, shorten

if TYPE_CHECKING:
    import aiohttp

Kind = Literal["completions", "chat"]

EXTRAS = ("ignore_eos", "min_tokens", "continuous_usage", "usage")
"""What is asked beyond the common interface, dropped one by one where a server refuses it.

`ignore_eos` and `min_tokens` force the output's length; `usage` asks for token counts at the end of the
stream, `continuous_usage` in every chunk (a chunk may hold several tokens).
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go.

    Attributes:
        url: base address, such as http://127.0.0.1:8000; a path ending in /v1 is accepted too.
        kind: `completions` takes token ids, so that prompts have exact lengths; `chat` takes text.
        model: the name by which the server knows its model; empty asks the server.
        key: sent as bearer token when not empty.
        extras: of `EXTRAS`, those in use.
    """

    url: str
    kind: Kind = "completions"
    model: str = ""
    key: str = ""
    extras: tuple[str, ...] = EXTRAS

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def path(self) -> str:
        """The full address of requests."""
        return f"{self.root}/v1/" + ("completions" if self.kind == "completions" else "chat/completions")

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def body(self, prompt: Sequence[int] | str, output_tokens: int) -> bytes:
        """The body of one request for a stream of so many tokens."""
        fields: dict[str, Any] = {"model": self.model, "stream": True, "max_tokens": output_tokens, "temperature": 0.0}
        if self.kind == "chat":
            fields["messages"] = [{"role": "user", "content": prompt}]
        else:
            fields["prompt"] = prompt
        if "ignore_eos" in self.extras:
            fields["ignore_eos"] = True
        if "min_tokens" in self.extras:
            fields["min_tokens"] = output_tokens
        if "usage" in self.extras:
            fields["stream_options"] = {"include_usage": True}
            if "continuous_usage" in self.extras:
                fields["stream_options"]["continuous_usage_stats"] = True
        return json.dumps(fields, separators=(",", ":")).encode()

    def without(self, extra: str) -> Endpoint:
        """The same endpoint, one extra less."""
        return replace(self, extras=tuple(name for name in self.extras if name != extra))


def url_problem(url: str) -> Problem | None:
    """What is wrong with an address, without sending anything to it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    return None if good else Problem("is no address of a server", "--url", got=repr(url), allowed="http://HOST:PORT")


def on_this_machine(url: str) -> bool:
    """Whether an address is one of this machine's own (loopback).

    >>> on_this_machine("http://127.0.0.1:8000"), on_this_machine("http://gpu-7:8000")
    (True, False)
    """
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def need_aiohttp() -> None:
    """Say how to install the HTTP client when it is missing."""
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "loading an engine needs aiohttp; install it with: pip install 'windtunnel[live]'"
        ) from None


async def found_model(session: aiohttp.ClientSession, endpoint: Endpoint) -> Endpoint:
    """The endpoint with the model that the server serves.

    Raises:
        SpecError: nobody answers at the address, or the server does not know the model.
    """
    names = await served_models(session, endpoint)
    if names is None:  # the server does not list its models
        if endpoint.model:
            return endpoint
        raise SpecError(Problem("the server does not list its models, so the name must be given", "--served-model"))
    if not endpoint.model:
        if len(names) == 1:
            return replace(endpoint, model=names[0])
        raise SpecError(Problem("the server has several models", "--served-model", allowed=", ".join(names)))
    if endpoint.model not in names:
        close = nearest(endpoint.model, names)
        problem = Problem(
            "the server has no such model", "--served-model", "", repr(endpoint.model), ", ".join(names), close
        )
        raise SpecError(problem)
    return endpoint


async def served_models(session: aiohttp.ClientSession, endpoint: Endpoint) -> tuple[str, ...] | None:
    """The models that the server lists, None when it keeps no list."""
    import aiohttp

    address = f"{endpoint.root}/v1/models"
    try:
        timeout = aiohttp.ClientTimeout(total=15)
        async with session.get(address, headers=endpoint.headers, timeout=timeout) as response:
            if response.status in (401, 403):
                raise SpecError(Problem(f"the server refuses the key (http {response.status})", "--key-variable"))
            if response.status != 200:
                return None
            listed = json.loads(await response.read())
            return tuple(str(model["id"]) for model in listed["data"])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = str(error) or "no answer within 15 s"
        raise SpecError(Problem(f"nobody answers: {why}", "--url", got=repr(endpoint.url))) from None
    except (ValueError, KeyError, TypeError):
        return None


def refusal(text: str, limit: int = 200) -> str:
    """The message in a server's error body."""
    try:
        found = json.loads(text)
    except ValueError:
        return shorten(text, limit)
    error = found.get("error", found) if isinstance(found, dict) else found
    message = error.get("message", error) if isinstance(error, dict) else error
    return shorten(message, limit)
