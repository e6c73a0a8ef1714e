"""Fields of a chat request that cost nothing beside the tokens they are worth.

The law: what is not here may change what is billed, at some server. Under a budget it is not sent to a
server that takes what it is told, unless its operator says that it costs nothing there. So a name is here
only if, wherever it is known, it makes no answer longer than the limit that is sent, no more answers than
`n`, no prompt longer than the request, and asks for no dearer model, no tool and no search.

Left out for that reason: `n_predict` and `num_predict`, which some servers heed before `max_tokens`;
`n_cmpl`, `best_of`, `use_beam_search`; `chat_template`, `documents`, `mm_processor_kwargs`, which make
prompts; `thinking_budget` and `enable_thinking`, which are dearer at some; `provider`, `models`, `lora`,
which choose who answers; `echo` and `response_fields`, which hide how long an answer is.

From the schemas of the servers, by the names they have there.
"""

from collections.abc import Mapping

OF_OPENAI = frozenset(
    (
        *("frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"),
        *("max_completion_tokens", "max_tokens", "messages", "metadata", "model", "moderation"),
        *("n", "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "response_format"),
        *("safety_identifier", "seed", "service_tier", "stop", "store", "stream"),
        *("stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p"),
        *("user", "verbosity"),
    )
)
"""Of tools and tiers the values are looked at besides."""
OF_MISTRAL = frozenset(("guardrails", "prompt_mode", "random_seed", "safe_prompt"))
"""Told to Mistral alone."""
SAMPLERS = frozenset(
    (
        *("adaptive_decay", "adaptive_target", "allowed_token_ids", "bad_words", "do_sample"),
        *("dry_allowed_length", "dry_base", "dry_multiplier", "dry_penalty_last_n"),
        *("dry_sequence_breakers", "dynatemp_exponent", "dynatemp_range", "ignore_eos"),
        *("length_penalty", "min_keep", "min_p", "min_tokens", "mirostat", "mirostat_eta"),
        *("mirostat_tau", "n_probs", "penalize_nl", "post_sampling_probs", "repeat_last_n"),
        *("repeat_penalty", "repetition_penalty", "samplers", "stop_regex", "stop_token_ids"),
        *("tfs_z", "top_a", "top_k", "top_n_sigma", "top_n_tokens", "typical_p", "watermark"),
        *("xtc_probability", "xtc_threshold"),
    )
)
"""Of llama.cpp, vLLM, SGLang, TGI, Ollama, LM Studio: which token comes next."""
FORMS = frozenset(
    (
        *("ebnf", "grammar", "guided_choice", "guided_decoding_backend", "guided_grammar"),
        *("guided_json", "guided_regex", "guided_whitespace_pattern", "json_schema", "regex"),
        "structured_outputs",
    )
)
"""Of the same: what an answer must look like."""
SWITCHES = frozenset(
    (
        *("add_generation_prompt", "add_special_tokens", "cache_control", "cache_prompt"),
        *("cache_salt", "continue_final_message", "id_slot", "include_reasoning"),
        *("include_stop_str_in_output", "keep_alive", "n_keep"),
        *("no_stop_trim", "parse_tool_calls", "prompt_logprobs", "reasoning_budget_tokens"),
        *("reasoning_format", "request_id", "return_progress", "return_token_ids"),
        *("return_tokens", "return_tokens_as_token_ids", "rid", "separate_reasoning"),
        *("skip_special_tokens", "spaces_between_special_tokens", "stream_reasoning"),
        *("t_max_predict_ms", "timings_per_token", "top_prompt_logprobs"),
        *("truncate_prompt_tokens", "ttl", "usage"),
    )
)
"""Of the same: how an answer is read and told, and what is kept warm. What is kept in a prompt cache has
a price."""

FREE_FIELDS = OF_OPENAI | OF_MISTRAL | SAMPLERS | FORMS | SWITCHES

_ASKS_FOR_NOTHING: dict[str, object] = {
    "best_of": 1,
    "modalities": ["text"],
    "n_cmpl": 1,
    "reasoning": {"enabled": False},
    "search_parameters": {"mode": "off"},
    "thinking": {"type": "disabled"},
}
"""The values of other fields with which they ask for no more than if they were not said."""


def asks_for_something(name: str, value: object) -> bool:
    """Whether a field that may cost does so with this value. An empty object does: it is a search by the
    server's own settings. So may zero: to some it is no limit."""
    if value is None or value is False or value == []:
        return False
    if name == "chat_template_kwargs" and isinstance(value, dict):
        # Switches of the model's template; some servers let another template be among them.
        return "chat_template" in value
    return name not in _ASKS_FOR_NOTHING or value != _ASKS_FOR_NOTHING[name]


_SHOWS_THINKING: dict[str, tuple[object, ...]] = {
    "include_reasoning": (None, True),
    "reasoning_format": (None, "auto", "deepseek", "deepseek-legacy", "none", "parsed", "raw"),
    "stream_reasoning": (None, True),
}
"""The values with which these fields leave thinking where it is seen as it comes."""


def hides_thinking(body: Mapping[str, object]) -> bool:
    """Whether a request asks not to be shown what it makes the model think: that is billed all the same,
    and cannot be counted here when the answer is cut off."""
    return any(name in body and body[name] not in shown for name, shown in _SHOWS_THINKING.items())
