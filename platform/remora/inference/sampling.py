"""How one answer is chosen, token by token, and when it ends. Each request has its own; none depends on its batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """The settings of one answer, by OpenAI's names (`top_k` is vLLM's).

    A token's score is its logit, plus its bias, less the penalties of what this answer has said already. Temperature 0
    takes the best score. Above it a token is drawn from the softmax of score / temperature over the `top_k` best
    tokens, of these over the fewest whose probabilities add up to `top_p`.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int = 0
    """What is drawn follows from it and the conversation alone."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; it is what was said before the first of them."""
    frequency_penalty: float = 0.0
    """Taken off a token's score as often as the answer holds the token."""
    presence_penalty: float = 0.0
    """Taken off a token's score once if the answer holds the token."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its score)."""

    @property
    def narrows(self) -> bool:
        """Whether not all tokens may be drawn."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0)

    @property
    def adjusts(self) -> bool:
        """Whether scores are not the logits."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias)
