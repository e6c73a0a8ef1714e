"""Who can be told a request: what asking the candidates finds out one by one, found out beforehand.

A provider's own writer of requests says what cannot be said there. While a request is served it is asked
once for each attempt, and what it refuses moves the request on (`dispatch`). Here it is asked of all of
them: for explanations, which send nothing.
"""

from collections.abc import Mapping

import msgspec

from windvane.core.chat import ChatRequest
from windvane.core.faults import Retry, WindvaneError
from windvane.core.routing.decision import Candidate, Decision, RuledOut
from windvane.engine.snapshot import Upstream


def tellable(
    decision: Decision, request: ChatRequest, upstreams: Mapping[str, Upstream]
) -> Decision:
    """The decision without the candidates that cannot be told the request; they are ruled out, and why.

    Raises the WindvaneError that the request would be answered with: when nobody can be told it, or the
    one to be asked first says that it is wrong wherever it is sent.
    """
    able: list[Candidate] = []
    unable: list[RuledOut] = []
    for candidate in decision.candidates:
        deployment = candidate.deployment
        try:
            upstreams[deployment.provider].provider.encode_chat(request, deployment.model)
        except WindvaneError as error:
            is_last = candidate is decision.candidates[-1]
            if not able and (is_last or error.fault.retry is Retry.NEVER):
                raise
            unable.append(RuledOut(model=candidate.model, why=error.fault.message))
        else:
            able.append(candidate)
    if not unable:
        return decision
    return msgspec.structs.replace(
        decision, candidates=tuple(able), ruled_out=(*decision.ruled_out, *unable)
    )
