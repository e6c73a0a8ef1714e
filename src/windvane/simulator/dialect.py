"""What a dialect must be able to say: the provider faces behind one simulator."""

from typing import ClassVar, Protocol

from msgspec import Struct

from windvane.simulator.catalogue import ModelCard
from windvane.simulator.dice import Dice
from windvane.simulator.exchange import Answer, ChatRequest
from windvane.simulator.http_message import Received
from windvane.simulator.json_types import JsonObject
from windvane.simulator.refusal import Refusal
from windvane.simulator.reply import Frame


class EmbeddingRequest(Struct, kw_only=True):
    """An embeddings request after validation; `sizes` are the tokens of each text."""

    card: ModelCard
    model: str
    texts: list[str]
    sizes: list[int]
    dimensions: int
    dtype: str = "float"
    base64: bool = False


class Allowance(Struct, frozen=True, gc=False):
    """What a key may still do in the current minute."""

    requests_limit: int
    requests_left: int
    tokens_limit: int
    tokens_left: int
    resets_in_s: float


class Dialect(Protocol):
    """One provider's way of reading requests and writing answers.

    `endpoints` are its paths and what each is for: chat, fim, embeddings, count. `last_frame` ends a
    stream that ends well.
    """

    name: str
    endpoints: ClassVar[dict[str, str]]
    last_frame: ClassVar[bytes]
    cards: ClassVar[dict[str, ModelCard]]
    error_bodies: ClassVar[dict[int, tuple[str, str | None]]]

    def key_of(self, received: Received) -> str:
        """Return the key a request brings, empty when it brings none."""

    def check_headers(self, received: Received) -> None:
        """Raise Refusal when a header that must be there is not."""

    def read_chat(self, body: JsonObject, *, strict: bool) -> ChatRequest:
        """Return the request, or raise Refusal."""

    def read_fim(self, body: JsonObject, *, strict: bool) -> ChatRequest:
        """Return the request, or raise Refusal."""

    def read_embedding(self, body: JsonObject, *, strict: bool) -> EmbeddingRequest:
        """Return the request, or raise Refusal."""

    def too_long(self, prompt_tokens: int, card: ModelCard) -> Refusal:
        """Return the refusal of a prompt that does not fit the model."""

    def rate_limited(self, resets_in_s: float | None) -> Refusal:
        """Return the refusal of a request over the limit."""

    def make_call_id(self, dice: Dice) -> str:
        """Return a tool-call id."""

    def make_answer_id(self, dice: Dice) -> str:
        """Return an answer's id."""

    def chat_body(self, request: ChatRequest, answer: Answer) -> bytes:
        """Return the whole answer as one JSON document."""

    def chat_frames(self, request: ChatRequest, answer: Answer, chunk_tokens: int) -> list[Frame]:
        """Return the answer as server-sent events."""

    def embedding_body(
        self, request: EmbeddingRequest, vectors: list[list[float] | list[int] | str], id_: str
    ) -> bytes:
        """Return the vectors as JSON."""

    def models_body(self) -> bytes:
        """Return the list of models."""

    def model_body(self, card: ModelCard, name: str) -> bytes:
        """Return one model's card."""

    def error_body(self, refusal: Refusal) -> bytes:
        """Return an error in the provider's envelope."""

    def error_frame(self, refusal: Refusal) -> bytes:
        """Return an error as an event of a stream."""

    def fields(self, request_id: str, allowance: Allowance, cost_tokens: int) -> str:
        """Return the provider's own header lines."""
