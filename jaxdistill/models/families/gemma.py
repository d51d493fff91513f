"""Gemma 2 and 3: windows in most layers, norms before and after each block, scaled embeddings."""

from __future__ import annotations

import dataclasses

from jaxdistill.errors import ModelError
from jaxdistill.models.families.llama import FULL, SLIDING, SlidingConfig, rotary_family
from jaxdistill.models.layers.decoder_layer import Shape
from jaxdistill.models.layers.rotary import inverse_frequencies, old_scaling, rope_parameters
from jaxdistill.types import Json


@dataclasses.dataclass(frozen=True)
class Gemma2Config(SlidingConfig):
    """The fields of a Gemma 2 `config.json` that shape the model."""

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int | None = 256
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    hidden_activation: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    query_pre_attn_scalar: int = 256
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.normalize_layers(
            [FULL if (i + 1) % self.period == 0 else SLIDING for i in range(self.num_hidden_layers)]
        )
        for field in ("query_pre_attn_scalar", *self.softcaps):
            value = getattr(self, field)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and value > 0) and not (value is None and field in self.softcaps):
                raise ModelError(
                    f"{self.family_name}.{field}: got {value!r}, expected a number above 0"
                )
        if self.extra.get("use_bidirectional_attention"):
            raise ModelError(
                f"{self.family_name}.use_bidirectional_attention: got True, only causal attention "
                "is supported"
            )

    @property
    def softcaps(self) -> tuple[str, ...]:
        """Fields that hold a softcap or None."""
        return ("final_logit_softcapping", "attn_logit_softcapping")

    @property
    def period(self) -> int:
        """Every how many layers one sees everything, where `layer_types` does not say it."""
        return 2

    @property
    def act(self) -> str:
        """Name of the activation."""
        return self.hidden_activation

    @property
    def shape(self) -> Shape:
        """What the decoder is made of."""
        return dataclasses.replace(
            super().shape,
            norm="rms_offset",
            post_norms=True,
            scale=float(self.query_pre_attn_scalar) ** -0.5,
            softcap=self.attn_logit_softcapping,
            head_softcap=self.final_logit_softcapping,
            embedding_scale=self.hidden_size**0.5,
            attention_bias=self.attention_bias,
            output_bias=self.attention_bias,
            windows=self.windows,
        )


@dataclasses.dataclass(frozen=True)
class Gemma3Config(Gemma2Config):
    """The fields of a Gemma 3 text `config.json`: two bases of rotation, normalized heads."""

    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    sliding_window_pattern: int = 6
    rope_local_base_freq: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attn_logit_softcapping is not None:
            raise ModelError(
                f"gemma3.attn_logit_softcapping: got {self.attn_logit_softcapping}, expected null: "
                "Gemma 3 normalizes queries and keys instead"
            )

    @property
    def period(self) -> int:
        """Every how many layers one sees everything, where `layer_types` does not say it."""
        return self.sliding_window_pattern

    def normalize_rope(self) -> None:
        """Bring the fields that say how positions rotate, per kind of layer, in agreement."""
        nested: Json = self.rope_parameters or {}
        known = {"positions": self.max_position_embeddings}
        whole = rope_parameters(
            f"gemma3.{FULL}",
            theta=self.rope_theta,
            scaling=self.rope_scaling,
            parameters=nested.get(FULL),
            default_theta=1_000_000.0,
            **known,
        )
        local = rope_parameters(
            f"gemma3.{SLIDING}",
            theta=self.rope_local_base_freq,
            scaling=None,
            parameters=nested.get(SLIDING),
            default_theta=10_000.0,
            **known,
        )
        self.normalize(
            rope_theta=whole["rope_theta"],
            rope_local_base_freq=local["rope_theta"],
            rope_scaling=old_scaling(whole),
            rope_parameters={FULL: whole, SLIDING: local},
        )

    @property
    def frequencies(self) -> tuple[tuple[float, ...], ...]:
        """Rotary frequencies of the layers that see everything, and of those with a window."""
        assert self.rope_parameters is not None
        return tuple(
            inverse_frequencies(self.rope_parameters[kind], self.head_dim or 0)
            for kind in (FULL, SLIDING)
        )

    @property
    def shape(self) -> Shape:
        """What the decoder is made of."""
        kinds = tuple(int(kind == SLIDING) for kind in self.layer_types or ())
        return dataclasses.replace(super().shape, head_norm=True, kinds=kinds)


GEMMA2 = rotary_family(
    "gemma2",
    "Gemma Team 2024, Gemma 2: Improving Open Language Models at a Practical Size",
    Gemma2Config,
    "Gemma2",
)
GEMMA3 = rotary_family(
    "gemma3_text",
    "Gemma Team 2025, Gemma 3 Technical Report",
    Gemma3Config,
    "Gemma3",
    bare="Gemma3TextModel",
)

FAMILIES = (GEMMA2, GEMMA3)
