"""To whom a request is put down besides its key: end user, tags, and how urgent it is.

Callers say so in headers (`x-windvane-user`, `x-windvane-tags`, `x-windvane-priority`) or in the body,
where both SDKs have a place for it (`user`, `safety_identifier`, `metadata.tags`). A header wins. A
caller may make itself less urgent than its key allows, never more.
"""

import re
from hashlib import blake2b

from windvane.core.chat import JsonObject
from windvane.core.exchange import Exchange
from windvane.core.faults import FaultKind, WindvaneError, refuse
from windvane.core.principal import Principal, scopes_of
from windvane.core.priority import Priority

USER_HEADER = b"x-windvane-user"
TAGS_HEADER = b"x-windvane-tags"
PRIORITY_HEADER = b"x-windvane-priority"
TAGS_MAX = 16
_NAME = re.compile(r"[^\x00-\x20\x7f,][^\x00-\x1f\x7f,]{0,127}")


def attribute(exchange: Exchange, principal: Principal) -> None:
    """Fill in the exchange's user, tags, priority and scopes. Raises BadRequestError."""
    headers, body = exchange.headers, exchange.request.body
    if (
        USER_HEADER in headers
        or TAGS_HEADER in headers
        or PRIORITY_HEADER in headers
        or "user" in body
        or "safety_identifier" in body
        or "metadata" in body
    ):
        _attribute_as_said(exchange, principal)
        return
    exchange.scopes = principal.scopes
    if principal.tags:
        exchange.tags = principal.tags
    if principal.priority is not exchange.priority:
        exchange.priority = principal.priority


def _attribute_as_said(exchange: Exchange, principal: Principal) -> None:
    headers, body = exchange.headers, exchange.request.body
    user, tags, priority = None, principal.tags, principal.priority
    if USER_HEADER in headers and (shown := text_of(headers[USER_HEADER]).strip()):
        user = _checked(shown, "user", USER_HEADER.decode())
    elif "user" in body or "safety_identifier" in body:
        said = body.get("safety_identifier") or body.get("user")
        if isinstance(said, str) and (said := said.strip()):
            user = _named(said)
    if TAGS_HEADER in headers or "metadata" in body:
        tags = (*tags, *_tags(headers.get(TAGS_HEADER), body))
    if tags:
        tags = tuple(dict.fromkeys(tags))
    if PRIORITY_HEADER in headers:
        priority = _priority(headers[PRIORITY_HEADER], priority)
    exchange.user, exchange.tags, exchange.priority = user, tags, priority
    exchange.scopes = scopes_of(principal.key_id, principal.team, user, tags)


def text_of(value: bytes) -> str:
    """A header's text: UTF-8 as modern clients send it, else Latin-1 as HTTP once had it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _named(user: str) -> str:
    """The body's user as a name. The provider takes any text; one that is no name goes by a digest of
    it, lest it be cut into another's."""
    if _NAME.fullmatch(user):
        return user
    return f"user-{blake2b(user.encode(errors='surrogatepass'), digest_size=12).hexdigest()}"


def _tags(header: bytes | None, body: JsonObject) -> list[str]:
    place = "metadata.tags" if header is None else TAGS_HEADER.decode()
    if header is not None:
        given = [tag.strip() for tag in text_of(header).split(",") if tag.strip()]
    else:
        metadata = body.get("metadata")
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        if isinstance(tags, str):
            # OpenAI's metadata holds texts alone.
            given = [tag.strip() for tag in tags.split(",") if tag.strip()]
        else:
            given = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    if len(given) > TAGS_MAX:
        raise _wrong("tags", place, f"at most {TAGS_MAX} tags")
    return [_checked(tag, "tags", place) for tag in given]


def _checked(name: str, what: str, place: str) -> str:
    """A name fit for reports and scopes; what is not must not be cut into another's."""
    if not _NAME.fullmatch(name):
        raise _wrong(what, place, "1 to 128 characters, no comma and no control character")
    return name


def _priority(header: bytes, allowed: Priority) -> Priority:
    try:
        asked = Priority(header.decode("latin-1").strip().lower())
    except ValueError:
        rule = f"one of {', '.join(Priority)}"
        raise _wrong("priority", PRIORITY_HEADER.decode(), rule) from None
    return asked if asked.rank >= allowed.rank else allowed


def _wrong(what: str, place: str, rule: str) -> WindvaneError:
    """`place` is the header, or the field of the body, that says it."""
    return refuse(
        FaultKind.INVALID_REQUEST, f"{place}: {rule}", code=f"invalid_{what}", param=place
    )
