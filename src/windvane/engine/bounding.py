"""The worst case of an attempt, and what may be asked for within a budget.

Input is bounded by the bytes of the request: no vocabulary makes more tokens than bytes. A document
that is named by reference may be as long as the model's window. (For the rest, the window is no bound:
it is what a catalog says of the provider, who may have widened it.) Output is bounded by the limit that
goes with the request. A request under a budget always has one: the caller's, the key's, or the model's
own. When what is left does not cover the worst case, a lower limit is asked for, unless the key says
not to.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime

import msgspec

from windvane.core.analysis import Analysis
from windvane.core.analysis.tokens import TEMPLATE_TOKENS_MAX, tokens_upper_bound
from windvane.core.budgets import US_PER_DAY, US_PER_S, Account, Period, tightest
from windvane.core.catalog.prices import PERMILLE, Dearest, Price, WorstCase, cost, dearest
from windvane.core.deployment import UNKNOWN_TIER_PERMILLE, Deployment, keeps_for_an_hour
from windvane.core.exchange import Exchange
from windvane.core.faults import (
    Fault,
    FaultKind,
    LimitReached,
    Retry,
    Source,
    WindvaneError,
    error_of,
)
from windvane.core.free_fields import FREE_FIELDS
from windvane.core.money import AMOUNT_MAX, NanoUsd, usd_text
from windvane.core.principal import MODEL, Principal, Scope, scope, told_as
from windvane.core.usage import Usage
from windvane.ports.clock import Clock
from windvane.ports.stores import BudgetStore

TOKENS_UNBOUNDED = 131_072
"""The bound of input and of output for a model whose window is unknown, when nothing else gives one."""
OUTPUT_TOKENS_DEFAULT = 4_096
"""Under a budget, when the caller sets no limit: asked of a model whose window is unknown, and of any
other at least, as long as the budget covers it."""
OUTPUT_TOKENS_MIN = 16
"""A budget that covers less than this many tokens of answer covers none worth having."""
OUTPUT_TOKENS_TYPICAL = 300
"""A middling answer."""
WINDOW_SLACK_TOKENS = 1_024
FAIR_PARTS = 8
HELD_RETRY_S = 1.0
"""When money held for a running request may be free again cannot be foretold."""
FORM_BYTES = len('{"model":"","messages":[{"role":"user","content":""}]}')
"""So many bytes of every request that is sent are its form, besides the model's name: no model reads
them. A request may be longer by this as it is sent than as it came, and its bound holds: there is room
in it for the name of a limit or of a tier."""
_PROMPTED = frozenset(("tools", "functions", "response_format"))
"""Fields to which a provider may add a prompt of its own."""
_PLAIN = FREE_FIELDS - _PROMPTED - {"prediction", "service_tier"}
"""Fields by which no request costs more than its size and its limit say: most have no others."""


class Bound(msgspec.Struct, frozen=True, gc=False):
    """What is held for an attempt, and the limit of output sent with it.

    `hold_nano_usd` and `price` are None for an unknown price (and no budget). `output_tokens_max` is
    None when the request goes out as the caller wrote it. `scopes` are all the scopes it counts in;
    `at_us` is when, and decides the period and the `price`.
    """

    hold_nano_usd: NanoUsd | None
    scopes: tuple[Scope, ...]
    at_us: int
    price: Price | None
    resolved_model: str
    output_tokens_max: int | None = None
    is_clamped: bool = False


class Tariff:
    """What is the same for all attempts at one deployment on one day."""

    __slots__ = (
        "dearest",
        "dearest_kept",
        "deployment",
        "image_tokens_max",
        "is_sure",
        "model_cap",
        "output_max",
        "plain",
        "price",
        "resolved_model",
        "scopes",
    )

    def __init__(self, deployment: Deployment, price: Price | None, is_trusted: bool) -> None:
        card, usual = deployment.card, deployment.billing.output_tokens_default
        self.deployment = deployment
        self.price = price
        self.is_sure = is_trusted and price is not None
        """Whether a request with nothing unusual in it costs no more than its bound."""
        self.resolved_model = deployment.resolved_model
        self.scopes = (scope(MODEL, self.resolved_model),)
        self.image_tokens_max = deployment.billing.image_tokens_max
        self.output_max = usual or _window(deployment) or TOKENS_UNBOUNDED
        """How long an answer may be to a request that goes out without a limit."""
        longest = card.output_tokens_max if card else None
        is_short = usual is not None and longest is not None and longest < usual
        self.model_cap = longest if is_short else None
        """The model's own limit, sent to a provider that must be told one where the usual one is more
        than the model takes."""
        self.dearest: Dearest | None = None
        self.dearest_kept: Dearest | None = None
        """Of requests that have something kept for an hour, where that has a price of its own."""
        if price is not None:
            factor = deployment.multiplier_permille
            self.dearest = dearest(price, factor, keeps_for_an_hour=False)
            kept = dearest(price, factor)
            if kept != self.dearest:
                self.dearest_kept = kept
        is_even = self.is_sure and self.dearest_kept is None
        self.plain = self.dearest if is_even else None
        """Of requests with nothing unusual in them, where those are all alike and sure."""


class Bounder:
    """Works out bounds, with what budgets have left."""

    def __init__(
        self, budgets: BudgetStore, clock: Clock, on_refused: Callable[[Account, int], None]
    ) -> None:
        self._budgets = budgets
        self._clock = clock
        self._on_refused = on_refused
        self._distrusted: set[str] = set()
        self._tariffs: dict[str, Tariff] = {}
        """Of the day."""
        self._day = date.min
        self._day_from_us = self._day_until_us = 0

    def day(self, at_us: int) -> date:
        """The UTC day of a moment; prices and aliases go by it."""
        if not self._day_from_us <= at_us < self._day_until_us:
            self._day_from_us = at_us - at_us % US_PER_DAY
            self._day_until_us = self._day_from_us + US_PER_DAY
            self._day = datetime.fromtimestamp(self._day_from_us // US_PER_S, UTC).date()
            self._tariffs = {}
        return self._day

    def tariff(self, deployment: Deployment, at_us: int) -> Tariff:
        """What attempts at `deployment` have in common that begin on the day of a moment."""
        if not self._day_from_us <= at_us < self._day_until_us:
            self.day(at_us)
        tariff = self._tariffs.get(deployment.id)
        if tariff is None or tariff.deployment is not deployment:
            is_trusted = deployment.id not in self._distrusted
            tariff = Tariff(deployment, deployment.price_on(self._day), is_trusted)
            self._tariffs[deployment.id] = tariff
        return tariff

    def distrust(self, deployment: Deployment) -> None:
        """An attempt at `deployment` cost more than its bound: from now, no budget pays for another.

        The next one might cost more as well, and take a budget past its limit; a fallback is asked
        instead. It ends with the process: an operator sets the price right, and starts it anew.
        """
        self._distrusted.add(deployment.id)
        self._tariffs.pop(deployment.id, None)

    def bound(self, exchange: Exchange, deployment: Deployment) -> Bound:
        """What an attempt at `deployment` may cost at most now, and the limit it goes out with.

        Raises PermissionDeniedError when a budget applies and the price is not known, and
        BudgetExceededError when what is left does not cover an answer.
        """
        principal, analysis, request = exchange.principal, exchange.analysis, exchange.request
        assert principal is not None and analysis is not None
        now_us = self._clock.wall_us()
        # Nearly always it is known: then no call is made for it.
        tariff = self._tariffs.get(deployment.id)
        if (
            tariff is None
            or tariff.deployment is not deployment
            or not self._day_from_us <= now_us < self._day_until_us
        ):
            tariff = self.tariff(deployment, now_us)
        scopes = exchange.scopes + tariff.scopes
        asked = request.output_tokens_max or None  # zero is no limit to some servers
        cap = principal.output_tokens_max
        capped = None if cap is None and asked else _capped(asked, cap, tariff)
        sent, rates = capped or asked, tariff.plain
        if (
            sent is not None
            and rates is not None
            and request.n == 1
            and _PLAIN.issuperset(request.body)
            and not (analysis.audio or analysis.documents)
        ):
            # Nearly all are so, and there is room for nearly all: no more calls are made for them.
            input_max = (
                exchange.body_bytes
                + TEMPLATE_TOKENS_MAX * (analysis.messages + analysis.tools + 1)
                + tariff.image_tokens_max * analysis.images
            )
            divisor = rates.divisor
            amount = (input_max * rates.input + sent * rates.output + (divisor - 1)) // divisor
            room = None if self._budgets.table.is_empty else self._budgets.room(scopes, now_us)
            if amount <= (AMOUNT_MAX if room is None else room):
                return Bound(
                    amount,  # type: ignore[arg-type]  # to call a NewType costs more than all of that
                    scopes,
                    now_us,
                    tariff.price,
                    tariff.resolved_model,
                    capped,
                )
        return self._bound_of_any(exchange, tariff, scopes, now_us, capped)

    def _bound_of_any(
        self,
        exchange: Exchange,
        tariff: Tariff,
        scopes: tuple[Scope, ...],
        now_us: int,
        capped: int | None,
    ) -> Bound:
        """The bound of what may have anything in it, and of what there may be no room for."""
        principal, analysis, request = exchange.principal, exchange.analysis, exchange.request
        assert principal is not None and analysis is not None
        budgets, price, model = self._budgets, tariff.price, tariff.resolved_model
        room = None if budgets.table.is_empty else budgets.room(scopes, now_us)
        if room is None:
            return _bound_of_no_budget(exchange, tariff, scopes, now_us, capped)
        asked = request.output_tokens_max or None
        sent = capped or asked
        is_plain = _PLAIN.issuperset(request.body) and not (analysis.audio or analysis.documents)
        if not (is_plain and tariff.is_sure):
            self._check_price(exchange, analysis, tariff)
        worst = _worst_case(exchange, analysis, tariff, is_plain=is_plain)
        whole = output_bound(exchange, tariff.deployment) if sent is None else sent
        amount, is_fair = worst.of(whole), sent is not None
        wanted = amount if is_fair else amount * FAIR_PARTS
        if wanted <= room:
            said = None if whole == asked else whole
            return Bound(amount, scopes, now_us, price, model, said)
        left = max(budgets.room(scopes, now_us, wanted) or 0, 0)
        if not is_fair and amount > left // FAIR_PARTS:
            sent = _fair(worst, whole, left)
            amount = worst.of(sent)
        else:
            sent = whole
        is_clamped = sent < whole
        if amount > left:
            least = min(sent, OUTPUT_TOKENS_MIN)
            if asked and not principal.may_clamp:
                raise self._refuse(scopes, amount, principal, now_us)
            if (needed := worst.of(least)) > left:
                raise self._refuse(scopes, needed, principal, now_us)
            sent, is_clamped = worst.longest(left, least, sent), True
            amount = worst.of(sent)
        said = None if sent == asked else sent
        return Bound(amount, scopes, now_us, price, model, said, is_clamped)

    def _check_price(self, exchange: Exchange, analysis: Analysis, tariff: Tariff) -> None:
        """Raise PermissionDeniedError when an attempt may cost more than any price we know."""
        deployment = tariff.deployment
        if tariff.price is None:
            raise unpriceable(f"the price of {tariff.resolved_model}")
        if not tariff.is_sure:
            raise unpriceable(f"what {deployment.id} costs at most")
        part = deployment.unpriced_part(analysis, exchange.request.body)
        if part is not None:
            raise unpriceable(f"the price of {part} at {deployment.id}")

    def _refuse(
        self, scopes: tuple[Scope, ...], needed: int, caller: Principal, now_us: int
    ) -> WindvaneError:
        account = tightest(self._budgets.accounts(scopes, now_us))
        assert account is not None
        return self.refuse(account, needed, caller, now_us)

    def refuse(
        self, account: Account, needed: int, caller: Principal | None, now_us: int
    ) -> WindvaneError:
        """The error of a budget that does not cover `needed`."""
        assert account.limit is not None
        if account.limit - account.spent < needed:
            self._on_refused(account, now_us)
        return budget_exceeded(account, needed, caller, now_us)


def _capped(asked: int | None, cap: int | None, tariff: Tariff) -> int | None:
    """The limit that is sent instead of the caller's: the key's, or the model's own."""
    if asked is None and tariff.model_cap is not None and not (cap and cap <= tariff.model_cap):
        return tariff.model_cap
    return cap if cap is not None and (asked is None or asked > cap) else None


def _bound_of_no_budget(
    exchange: Exchange, tariff: Tariff, scopes: tuple[Scope, ...], now_us: int, capped: int | None
) -> Bound:
    """What an attempt may cost at most, as far as that can be told: nothing is refused for it."""
    analysis, request = exchange.analysis, exchange.request
    assert analysis is not None
    price, amount = tariff.price, None
    if analysis.audio or request.body.get("audio") is not None:
        price = None  # billed apart, heard or spoken, and no usage tells of it
    if price is not None:
        longest = capped or request.output_tokens_max or tariff.output_max
        amount = _worst_case(exchange, analysis, tariff).of(longest)
    return Bound(amount, scopes, now_us, price, tariff.resolved_model, capped)


def _fair(worst: WorstCase, whole: int, left: int) -> int:
    """How long an answer may be whose caller set no limit: as long as the model can, but for no more
    than a part of what is left, lest one request hold all of a budget that others need as well."""
    return worst.longest(left // FAIR_PARTS, min(whole, OUTPUT_TOKENS_DEFAULT), whole)


def _worst_case(
    exchange: Exchange, analysis: Analysis, tariff: Tariff, *, is_plain: bool = False
) -> WorstCase:
    """The most that an attempt may cost, by the limit of its answer. It must have a price.

    `is_plain`: it is known to have no documents, and none of the fields that are bounded apart.
    """
    request, rates = exchange.request, tariff.dearest
    billing = tariff.deployment.billing
    assert rates is not None
    input_max = input_bound(exchange, tariff.deployment, is_plain=is_plain)
    if tariff.dearest_kept is not None and keeps_for_an_hour(request.body):
        rates = tariff.dearest_kept
    if is_plain:
        return rates.worst_case(input_max, request.n)
    body, kept = request.body, rates is tariff.dearest_kept
    if "service_tier" in body and (tier := billing.of_tier(body["service_tier"])) != PERMILLE:
        assert tariff.price is not None
        times = max(tier or UNKNOWN_TIER_PERMILLE, PERMILLE)
        factor = -(-tariff.deployment.multiplier_permille * times // PERMILLE)
        rates = dearest(tariff.price, factor, keeps_for_an_hour=kept)
    # Foretold words that are rejected are billed as output, whatever the limit says.
    foretold_max = exchange.body_bytes if body.get("prediction") else 0
    return rates.worst_case(input_max, request.n, foretold_max)


def input_bound(exchange: Exchange, deployment: Deployment, *, is_plain: bool = False) -> int:
    """No provider counts more tokens of input. `is_plain` as above."""
    analysis, billing = exchange.analysis, deployment.billing
    assert analysis is not None
    tokens = tokens_upper_bound(
        exchange.body_bytes,
        analysis.messages,
        analysis.images,
        analysis.tools,
        billing.image_tokens_max,
    )
    if is_plain:
        return tokens
    if billing.prompt_tokens_max and not _PROMPTED.isdisjoint(exchange.request.body):
        tokens += billing.prompt_tokens_max
    if analysis.documents:
        # Named by reference, a document may be as long as fits.
        return max(tokens, _window(deployment) or TOKENS_UNBOUNDED)
    return tokens


def _window(deployment: Deployment) -> int | None:
    return deployment.card.context_window_tokens if deployment.card else None


def amount_expected(exchange: Exchange, deployment: Deployment, price: Price) -> NanoUsd:
    """About what an attempt costs: for comparing models, never for holding."""
    analysis = exchange.analysis
    assert analysis is not None
    usage = Usage(
        input_tokens=analysis.input_tokens,
        output_tokens=min(
            exchange.request.output_tokens_max or OUTPUT_TOKENS_TYPICAL, OUTPUT_TOKENS_TYPICAL
        ),
    )
    return cost(price, usage, deployment.multiplier_permille)


def output_bound(exchange: Exchange, deployment: Deployment) -> int:
    """The longest answer the model could give to this request: what a request without a limit of its
    own is sent with. It must leave room for the input, or the provider would refuse."""
    card, analysis = deployment.card, exchange.analysis
    usual = deployment.billing.output_tokens_default
    assert analysis is not None
    if card is None or card.context_window_tokens is None:
        return (card.output_tokens_max if card else None) or usual or OUTPUT_TOKENS_DEFAULT
    window = card.context_window_tokens
    room = window - exchange.body_bytes
    if room < WINDOW_SLACK_TOKENS:
        room = max(window - analysis.input_tokens * 5 // 4, OUTPUT_TOKENS_MIN)
    return min(room, card.output_tokens_max or usual or room)


def unpriceable(what: str) -> WindvaneError:
    """Nothing whose price is unknown is spent from a budget."""
    return error_of(
        Fault(
            kind=FaultKind.FORBIDDEN,
            source=Source.CLIENT,
            message=f"{what} is not known, and this request is under a budget",
            status=403,
            code="unpriceable",
            retry=Retry.OTHER,
            param="model",
        )
    )


def budget_exceeded(
    account: Account, needed: int, caller: Principal | None, now_us: int
) -> WindvaneError:
    """What is left of a budget does not cover the request."""
    assert account.limit is not None
    left = account.left or 0
    when, retry_s = "it does not renew", None
    if needed > account.limit:
        when = "that is more than all of it"
    elif account.limit - account.spent >= needed:
        when, retry_s = "the rest is held for requests that are running", HELD_RETRY_S
    elif account.ends_at_us is not None:
        when = f"it renews at {_utc(account.ends_at_us)}"
        retry_s = (account.ends_at_us - now_us) / US_PER_S
    period = "" if account.period is Period.TOTAL else f"{account.period.value} "
    return error_of(
        Fault(
            kind=FaultKind.BUDGET_EXCEEDED,
            source=Source.CLIENT,
            message=(
                f"the {period}budget of {told_as(account.scope, caller)} has ${usd_text(left)} left of"
                f" ${usd_text(account.limit)}; this request may cost ${usd_text(needed)}; {when}"
            ),
            status=429,
            code="budget_exceeded",
            retry=Retry.OTHER,
            retry_after_s=retry_s,
            limit=LimitReached(
                scope=account.scope,
                what="budget",
                period=account.period.value,
                limit=account.limit,
                used=account.spent + account.held,
                left=left,
                needed=needed,
                renews_at_us=account.ends_at_us,
            ),
        )
    )


def _utc(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // US_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
