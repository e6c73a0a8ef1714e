"""Quality gates: is this answer one that was asked for?

Today's gate is emptiness. A gate names what it found; None means that the answer passes.
"""

from windvane.core.chat import ChatRequest, Completion, FinishReason


def may_be_empty(request: ChatRequest) -> bool:
    """Whether the caller itself may have asked for nothing: no tokens, or a stop at once."""
    return request.output_tokens_max == 0 or request.body.get("stop") is not None


def gate(completion: Completion) -> str | None:
    """What is wrong with the answer, or None.

    An empty answer is one whose every choice says nothing, calls nothing and was not filtered.
    """
    for choice in completion.choices:
        message = choice.message
        if not message.is_empty or message.refusal:
            return None
        if choice.finish_reason is FinishReason.CONTENT_FILTER:
            return None
    return "empty answer"
