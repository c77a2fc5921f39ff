"""Defines the numbers of a decoder that decide its memory and speed."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that decide a decoder's memory and speed.

    Attributes:
        family: Hugging Face `model_type`.
        parameters: all weights, counted once when embeddings are tied.
        hidden_size, layers, heads, kv_heads, head_dim, vocab_size: as in the model's config.
        intermediate_size: width of the MLP that one token passes through; with a mixture of
            experts, the width of all experts chosen for the token together.
        max_position: longest context the model was built for, in tokens.
        weight_bytes_per_parameter: 2 for 16-bit weights.
        kv_bytes_per_value: 2 for a 16-bit KV cache, 1 for fp8.
        active_parameters: weights that one token passes through, embeddings included; 0 for all
            (it is less with a mixture of experts).
        latent_values_per_token: values that one layer keeps per token where keys and values are
            compressed into a latent (MLA); 0 if the keys and values themselves are kept.
        window_tokens, window_layers: how many layers see no further back than a sliding window.
        stateless_layers: layers that keep nothing per token (state-space and linear attention).
        quantised_parameters: of `parameters`, those stored at `quantised_bytes_per_parameter`,
            scales and zero points included.
        linear_parameters: of `parameters`, those in matrices that an engine can quantise while it
            loads them: attention, MLP and experts, without embeddings, norms and biases.
        experts, experts_per_token: routed experts of a layer, and how many one token passes
            through; 0 for a model without experts.
        expert_parameters: of `parameters`, those in routed experts. A step with many tokens reads
            nearly all of them, a step with one token `experts_per_token / experts` of them.
        state_values_per_sequence: values that the engine sets aside for what state-space and
            convolution layers keep of one sequence of any length, in whole pages.
        declared_kv_bytes: bytes per value of the KV cache that the checkpoint declares; 0 for those
            of the engine's dtype.
        tower_parameters: weights beside the decoder, such as a vision tower's, that take memory but
            no time of a token.
        pools: whether vLLM starts it to embed, rank or classify.
        note: parts that these numbers leave out, or bound; empty if none.
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
    linear_parameters: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_parameters: int = 0
    state_values_per_sequence: int = 0
    declared_kv_bytes: float = 0.0
    tower_parameters: int = 0
    pools: bool = False
    note: str = ""

    @property
    def weights_bytes(self) -> int:
        """Weights as loaded, in bytes."""
        plain = (self.parameters - self.quantised_parameters) * self.weight_bytes_per_parameter
        quantised = self.quantised_parameters * self.quantised_bytes_per_parameter
        # Bytes per parameter is a quotient of whole numbers: its last bits are rounding errors.
        return math.ceil(round(plain + quantised, 3))

    @property
    def resident_bytes(self) -> int:
        """Weights and those of towers, as loaded, in bytes."""
        towers = math.ceil(self.tower_parameters * self.weight_bytes_per_parameter)
        return self.weights_bytes + towers

    @property
    def parameters_per_token(self) -> int:
        """Weights that one token passes through."""
        return self.active_parameters or self.parameters

    @property
    def attention_layers(self) -> int:
        """Number of layers that keep something of every token."""
        return self.layers - self.stateless_layers

    @property
    def kv_bytes_per_token_layer(self) -> float:
        """Bytes that one layer keeps of one token: K and V of its heads, or their latent."""
        values = self.latent_values_per_token or 2 * self.kv_heads * self.head_dim
        return values * self.kv_bytes_per_value

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that all layers keep of one token: 2 x layers x kv_heads x head_dim values.

        Counts a token within every sliding window: those layers forget it later, see `kv_bytes`.
        """
        return math.ceil(self.attention_layers * self.kv_bytes_per_token_layer)

    @property
    def state_bytes_per_sequence(self) -> int:
        """Bytes that state-space and convolution layers keep of one sequence."""
        return math.ceil(self.state_values_per_sequence * self.weight_bytes_per_parameter)

    @property
    def attention(self) -> str:
        """Kind of attention, which decides the KV cache, in the words of the literature."""
        if self.latent_values_per_token:
            return "MLA"
        kind = "MHA" if self.kv_heads == self.heads else "MQA" if self.kv_heads == 1 else "GQA"
        if self.window_layers:
            every = self.window_layers == self.attention_layers
            kind += ", sliding window" if every else ", alternating window"
        return kind + (", hybrid" if self.state_values_per_sequence else "")

    def kv_bytes(self, context_tokens: float) -> float:
        """Return bytes kept of one sequence with this much context.

        Layers with a window keep only that window; state does not grow with the context.
        """
        full = self.attention_layers - self.window_layers
        seen = min(context_tokens, self.window_tokens)
        kept = full * context_tokens + self.window_layers * seen
        return kept * self.kv_bytes_per_token_layer + self.state_bytes_per_sequence
