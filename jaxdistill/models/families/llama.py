"""Llama 2 and 3, Qwen2 and Qwen3: rotary positions, grouped heads, a gated feed-forward layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import nnx

from jaxdistill.errors import ModelError, did_you_mean
from jaxdistill.models.bodies.causal_lm import DecoderModel
from jaxdistill.models.bodies.text_encoder import check_config
from jaxdistill.models.family import Family, Options
from jaxdistill.models.hub.rules import Rule, embedding, linear, norm
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.decoder_layer import Shape
from jaxdistill.models.layers.rotary import inverse_frequencies, old_scaling, rope_parameters
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
    """The fields that the rotary decoders share; `extra` is the whole `config.json`.

    What older and newer configs say in different ways is kept in both, so that either reads it.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_dropout: float = 0.0
    rope_theta: float | None = None
    rope_scaling: Json | None = None
    rope_parameters: Json | None = None
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        heads, name = self.num_attention_heads, self.family_name
        width = self.head_dim or self.hidden_size // heads
        self.normalize(head_dim=width, num_key_value_heads=self.num_key_value_heads or heads)
        check_config(name, self, width=width * heads, heads=heads)
        if self.head_dim is None and self.hidden_size % heads:
            raise ModelError(
                f"{name}: got width {self.hidden_size} with {heads} attention heads, expected a "
                "multiple of them (or head_dim)"
            )
        if self.key_heads < 1 or heads % self.key_heads:
            raise ModelError(
                f"{name}.num_key_value_heads: got {self.key_heads} for {heads} attention heads, "
                "expected a divisor of them"
            )
        if width % 2 or width < 2:
            raise ModelError(f"{name}.head_dim: got {width}, expected an even number above 0")
        activation(self.act)
        self.normalize_rope()

    def normalize(self, **values: Any) -> None:
        """Set fields of this frozen config while it is made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def normalize_rope(self) -> None:
        """Bring the fields that say how positions rotate in agreement."""
        merged = rope_parameters(
            self.family_name,
            theta=self.rope_theta,
            scaling=self.rope_scaling,
            parameters=self.rope_parameters,
            default_theta=10_000.0,
            positions=self.max_position_embeddings,
        )
        self.normalize(
            rope_theta=merged["rope_theta"],
            rope_scaling=old_scaling(merged),
            rope_parameters=merged,
        )

    @property
    def family_name(self) -> str:
        """Name of the family, for messages."""
        return type(self).__name__.removesuffix("Config").lower()

    @property
    def act(self) -> str:
        """Name of the activation."""
        return getattr(self, "hidden_act", "silu")

    @property
    def key_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def frequencies(self) -> tuple[tuple[float, ...], ...]:
        """Rotary frequencies of each kind of layer."""
        assert self.rope_parameters is not None
        return (inverse_frequencies(self.rope_parameters, self.head_dim or 0),)

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(
            layers=self.num_hidden_layers,
            width=self.hidden_size,
            heads=self.num_attention_heads,
            key_heads=self.key_heads,
            head_width=self.head_dim,
            vocabulary=self.vocab_size,
            positions=self.max_position_embeddings,
        )

    @property
    def shape(self) -> Shape:
        """What the decoder is made of."""
        width = self.head_dim or 0
        return Shape(
            width=self.hidden_size,
            depth=self.num_hidden_layers,
            heads=self.num_attention_heads,
            key_heads=self.key_heads,
            head_width=width,
            inner=self.intermediate_size,
            vocabulary=self.vocab_size,
            act=self.act,
            epsilon=self.rms_norm_eps,
            scale=width**-0.5,
            tied=self.tie_word_embeddings,
            frequencies=self.frequencies,
            attention_rate=self.attention_dropout,
            stddev=self.initializer_range,
            output_stddev=self.initializer_range,
        )


@dataclasses.dataclass(frozen=True)
class LlamaConfig(RotaryConfig):
    """The fields of a Llama `config.json` that shape the model."""

    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def shape(self) -> Shape:
        """What the decoder is made of."""
        return dataclasses.replace(
            super().shape,
            attention_bias=self.attention_bias,
            output_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
        )


@dataclasses.dataclass(frozen=True)
class SlidingConfig(RotaryConfig):
    """A config in which some layers see a window only."""

    sliding_window: int | None = 4096
    layer_types: tuple[str, ...] | None = None

    def normalize_layers(self, default: Sequence[str]) -> None:
        """Check `layer_types`, or take the default.

        Raises:
          ModelError: an unknown kind, another number of them than layers, or no window for one.
        """
        kinds = tuple(self.layer_types or default)
        name = self.family_name
        for kind in kinds:
            if kind not in (FULL, SLIDING):
                raise ModelError(
                    f"{name}.layer_types: got {kind!r}, expected {FULL!r} or {SLIDING!r}."
                    f"{did_you_mean(str(kind), [FULL, SLIDING])}"
                )
        if len(kinds) != self.num_hidden_layers:
            raise ModelError(
                f"{name}.layer_types: got {len(kinds)} entries, expected one for each of the "
                f"{self.num_hidden_layers} layers"
            )
        window = self.sliding_window
        if SLIDING in kinds and (not isinstance(window, int) or window < 1):
            raise ModelError(
                f"{name}.sliding_window: got {window!r}, expected at least 1 for layers of kind "
                f"{SLIDING!r}"
            )
        self.normalize(layer_types=kinds)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Per layer, the number of tokens it sees, or None for all."""
        kinds = self.layer_types or ()
        return tuple(self.sliding_window if kind == SLIDING else None for kind in kinds)


@dataclasses.dataclass(frozen=True)
class Qwen2Config(SlidingConfig):
    """The fields of a Qwen2 `config.json` that shape the model."""

    vocab_size: int = 151936
    intermediate_size: int = 22016
    max_position_embeddings: int = 32768
    hidden_act: str = "silu"
    use_sliding_window: bool = False
    max_window_layers: int = 28

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_sliding_window:
            self.normalize(sliding_window=None)
        first = self.num_hidden_layers if self.sliding_window is None else self.max_window_layers
        self.normalize_layers([SLIDING if i >= first else FULL for i in range(self.depth)])

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.num_hidden_layers

    @property
    def shape(self) -> Shape:
        """What the decoder is made of."""
        return dataclasses.replace(super().shape, windows=self.windows, attention_bias=True)


@dataclasses.dataclass(frozen=True)
class Qwen3Config(Qwen2Config):
    """The fields of a Qwen3 `config.json` that shape the model; queries and keys are normalized."""

    head_dim: int | None = 128
    attention_bias: bool = False

    @property
    def shape(self) -> Shape:
        """What the decoder is made of."""
        return dataclasses.replace(
            super().shape,
            head_norm=True,
            attention_bias=self.attention_bias,
            output_bias=self.attention_bias,
        )


def build(config: RotaryConfig, options: Options, rngs: nnx.Rngs) -> DecoderModel:
    """Build the model of a rotary decoder's config."""
    return DecoderModel(config.shape, options, rngs)


def rules(config: RotaryConfig, options: Options) -> list[Rule]:
    """Rules of a rotary decoder, under the names that Llama, Qwen and Gemma share."""
    shape, layer = config.shape, "model.layers.{layer}"
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    after = {
        "layers/attention_post_norm": "post_attention_layernorm",
        "layers/mlp_norm": "pre_feedforward_layernorm",
        "layers/mlp_post_norm": "post_feedforward_layernorm",
    }
    norms = after if shape.post_norms else {"layers/mlp_norm": "post_attention_layernorm"}
    found = [
        *embedding("embeddings/word", "model.embed_tokens"),
        *norm("layers/attention_norm", f"{layer}.input_layernorm", bias=False),
        *linear("layers/attention/query", f"{attention}.q_proj", bias=shape.attention_bias),
        *linear("layers/attention/key", f"{attention}.k_proj", bias=shape.attention_bias),
        *linear("layers/attention/value", f"{attention}.v_proj", bias=shape.attention_bias),
        *linear("layers/attention/output", f"{attention}.o_proj", bias=shape.output_bias),
        *linear("layers/gate", f"{mlp}.gate_proj", bias=shape.mlp_bias),
        *linear("layers/up", f"{mlp}.up_proj", bias=shape.mlp_bias),
        *linear("layers/down", f"{mlp}.down_proj", bias=shape.mlp_bias),
        *norm("norm", "model.norm", bias=False),
    ]
    for ours, theirs in norms.items():
        found += norm(ours, f"{layer}.{theirs}", bias=False)
    if shape.head_norm:
        found += norm("layers/attention/query_norm", f"{attention}.q_norm", bias=False)
        found += norm("layers/attention/key_norm", f"{attention}.k_norm", bias=False)
    if options.head == "lm" and not shape.tied:
        found += linear("head", "lm_head", bias=False, group="head")
    return found


def rotary_family(
    name: str, paper: str, config: type[RotaryConfig], architecture: str, *, bare: str | None = None
) -> Family:
    """Declare a rotary decoder, whose classes in transformers start with `architecture`."""
    return Family(
        name=name,
        modality="text",
        paper=paper,
        config=config,
        build=build,
        rules=rules,
        architectures={"lm": f"{architecture}ForCausalLM", None: bare or f"{architecture}Model"},
        prefix="model",
        aliases={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
        head_tensors={"lm": r"lm_head\..*"},
        output="head",
    )


LLAMA = rotary_family(
    "llama",
    "Touvron et al. 2023, Llama 2: Open Foundation and Fine-Tuned Chat Models",
    LlamaConfig,
    "Llama",
)
QWEN2 = rotary_family("qwen2", "Yang et al. 2024, Qwen2 Technical Report", Qwen2Config, "Qwen2")
QWEN3 = rotary_family("qwen3", "Yang et al. 2025, Qwen3 Technical Report", Qwen3Config, "Qwen3")

FAMILIES = (LLAMA, QWEN2, QWEN3)
