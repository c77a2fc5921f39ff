"""The numbers of a decoder that decide its memory and speed."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that decide a decoder's memory and speed.

    Attributes:
        family: Hugging Face `model_type`.
        parameters: all weights, counted once when embeddings are tied.
        hidden_size, layers, heads, kv_heads, head_dim, intermediate_size, vocab_size: as in
            the model's config.
        max_position: longest context the model was built for, in tokens.
        weight_bytes_per_parameter: 2 for 16-bit weights.
        kv_bytes_per_value: 2 for a 16-bit KV cache, 1 for fp8.
        active_parameters: weights that one token passes through, embeddings included; 0 for all
            (it is less with a mixture of experts).
        latent_values_per_token: values that one layer keeps per token where keys and values are
            compressed into a latent (MLA); 0 where they are kept themselves.
        window_tokens, window_layers: how many layers see no further back than a sliding window.
        stateless_layers: layers that keep nothing per token (state-space and linear attention).
        quantised_parameters: of `parameters`, those stored in `quantised_bytes_per_parameter`,
            scales and zero points included.
    """

    family: str
    parameters: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position: int
    weight_bytes_per_parameter: float = 2.0
    kv_bytes_per_value: float = 2.0
    active_parameters: int = 0
    latent_values_per_token: int = 0
    window_tokens: int = 0
    window_layers: int = 0
    stateless_layers: int = 0
    quantised_parameters: int = 0
    quantised_bytes_per_parameter: float = 2.0

    @property
    def weights_bytes(self) -> int:
        """Weights as loaded, in bytes."""
        plain = (self.parameters - self.quantised_parameters) * self.weight_bytes_per_parameter
        return math.ceil(plain + self.quantised_parameters * self.quantised_bytes_per_parameter)

    @property
    def parameters_per_token(self) -> int:
        """Weights that one token passes through."""
        return self.active_parameters or self.parameters

    @property
    def kv_bytes_per_token_layer(self) -> float:
        """What one layer keeps of one token, in bytes: K and V of its heads, or their latent."""
        values = self.latent_values_per_token or 2 * self.kv_heads * self.head_dim
        return values * self.kv_bytes_per_value

    @property
    def kv_bytes_per_token(self) -> int:
        """What all layers keep of one token, in bytes: 2 x layers x kv_heads x head_dim values."""
        return math.ceil((self.layers - self.stateless_layers) * self.kv_bytes_per_token_layer)

    def kv_bytes(self, context_tokens: float) -> float:
        """KV of one sequence with this much context, in bytes; windows keep no more than theirs."""
        full = self.layers - self.stateless_layers - self.window_layers
        seen = min(context_tokens, self.window_tokens)
        kept = full * context_tokens + self.window_layers * seen
        return kept * self.kv_bytes_per_token_layer
