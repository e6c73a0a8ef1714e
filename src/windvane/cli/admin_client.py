"""The admin API as commands use it: of the gateway that runs, or of its data folder when none does.

One process at a time has the ledger. While a gateway has it, commands ask that gateway over HTTP; else
they open the folder themselves and serve the very same API to themselves (`offline`). Either way one
call is `ask`, and what is refused is told in the API's own words.
"""

import fcntl
import http.client
import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import click

from windvane.assembly import ADMIN_FILE, IN_MEMORY
from windvane.cli.configuration import ADDRESS_FILE, read_config
from windvane.cli.offline import ask_folder
from windvane.config import Config
from windvane.config.resolve import is_loopback

TIMEOUT_S = 30.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
REQUEST_ID = " (request id "
URL_VARIABLE = "WINDVANE_URL"
_STRANGER = "what answers there is not a windvane gateway"
KEYS_PATH = "/admin/keys"
Query = Mapping[str, str | None]


def key_path(said: str) -> str:
    """The path of a key."""
    return f"{KEYS_PATH}/{said}"


class Admin(Protocol):
    """Where the admin API is asked."""

    def ask(
        self, method: str, path: str, body: object = None, query: Query | None = None
    ) -> tuple[int, bytes]:
        """The answer's status and body; `path` is not quoted. Exits with status 1 when there is no
        answer."""
        ...


class RunningGateway:
    """A gateway, over HTTP."""

    def __init__(
        self, url: str, key: str | None, timeout_s: float = TIMEOUT_S, *, folder: str | None = None
    ) -> None:
        """`folder` is its data folder, where that is how it was found."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.BadParameter(f"{url!r} is no http(s) address", param_hint="--url")
        self._url = url.rstrip("/")
        self._parts = parts
        self._key = key
        self._timeout_s = timeout_s
        self._folder = folder

    def ask(
        self, method: str, path: str, body: object = None, query: Query | None = None
    ) -> tuple[int, bytes]:
        is_plain = self._parts.scheme == "http"
        kind = http.client.HTTPConnection if is_plain else http.client.HTTPSConnection
        assert self._parts.hostname is not None
        connection = kind(self._parts.hostname, self._parts.port, timeout=self._timeout_s)
        headers = {} if self._key is None else {"authorization": f"Bearer {self._key}"}
        if body is not None:
            headers["content-type"] = "application/json"
        target = self._parts.path.rstrip("/") + quote(path) + _query_text(query)
        try:
            connection.request(
                method, target, None if body is None else json.dumps(body).encode(), headers
            )
            answer = connection.getresponse()
            return answer.status, answer.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            why = f"nothing answers as a gateway at {self._url} ({error or type(error).__name__}); if it"
            why = f"{why} runs elsewhere, say so with --url or {URL_VARIABLE}"
            if self._folder is not None:
                why = (
                    f"the data folder {self._folder} is in use, by another command or a gateway that"
                    f" starts or stops: try again. Or {why}"
                )
            raise click.ClickException(why) from error
        finally:
            connection.close()


class StoppedGateway:
    """A gateway that does not run, by its data folder."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def ask(
        self, method: str, path: str, body: object = None, query: Query | None = None
    ) -> tuple[int, bytes]:
        folder = Path(self._config.data_dir)
        if method == "GET" and not folder.is_dir():
            raise click.ClickException(
                f"there is no data folder {folder}, and no gateway runs that has it: say where with"
                f" WINDVANE_DATA_DIR, --config, or {URL_VARIABLE}"
            )
        written = None if body is None else json.dumps(body).encode()
        return ask_folder(self._config, method, path, _query_text(query)[1:], written)


def _query_text(query: Query | None) -> str:
    said = {name: value for name, value in (query or {}).items() if value is not None}
    return f"?{urlencode(said)}" if said else ""


def administration(path: Path | None, url: str | None, *, timeout_s: float = TIMEOUT_S) -> Admin:
    """Where to ask: at `url` when it is given, else where the configuration's gateway is. An answer
    that takes longer than `timeout_s` is none."""
    config = read_config(path)
    if url is None and config.data_dir != IN_MEMORY and not is_taken(Path(config.data_dir)):
        return StoppedGateway(config)
    if url is None:
        return RunningGateway(
            _own_url(config),
            config.auth.admin_key or _kept_key(config),
            timeout_s,
            folder=config.data_dir,
        )
    host = urlsplit(url).hostname or ""
    key = config.auth.admin_key
    if is_loopback(host):
        key = key or _kept_key(config)
    elif url.startswith("http:"):
        click.echo(f"warning: {url} is not encrypted: the admin's key can be overheard", err=True)
    return RunningGateway(url, key, timeout_s)


def is_taken(folder: Path) -> bool:
    """Whether a process has the ledger in `folder` open."""
    try:
        held = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise click.ClickException(f"the data folder {folder} cannot be used: {error}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(held)
    return False


def _own_url(config: Config) -> str:
    """Where the gateway of this configuration listens: as it has left word in its data folder, else
    as it is configured."""
    left = _read(config, ADDRESS_FILE) or f"http://{_in_url(config.host)}:{config.port}"
    parts = urlsplit(left)
    host = parts.hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return left
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"{parts.scheme}://{_in_url(host)}:{parts.port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _kept_key(config: Config) -> str | None:
    """The key for whoever may read the data folder. It must not leave this machine."""
    return _read(config, ADMIN_FILE)


def _read(config: Config, name: str) -> str | None:
    if config.data_dir == IN_MEMORY:
        return None
    try:
        return (Path(config.data_dir) / name).read_text().strip() or None
    except OSError:
        return None


def told(
    admin: Admin, method: str, path: str, body: object = None, query: Query | None = None
) -> Any:
    """The answer as data. Exits with status 1, and the reason in plain words, when it is refused."""
    text = text_told(admin, method, path, body, query)
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.ClickException(_STRANGER) from error


def text_told(
    admin: Admin, method: str, path: str, body: object = None, query: Query | None = None
) -> str:
    """The same, as text."""
    status, answer = admin.ask(method, path, body, query)
    if status < http.client.BAD_REQUEST:
        return answer.decode(errors="replace")
    raise click.ClickException(_reason(status, answer))


def _reason(status: int, answer: bytes) -> str:
    try:
        message = str(json.loads(answer)["error"]["message"]).partition(REQUEST_ID)[0]
    except (ValueError, KeyError, TypeError):
        return f"{_STRANGER} (status {status})"
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        return (
            f"the gateway refuses: {message}. Set auth.admin_key or WINDVANE_ADMIN_KEY to its admin"
            " key, or run this where its data folder can be read"
        )
    return message
