"""GPT-2: learned positions, layer norms, and one attention head per head of keys."""

from __future__ import annotations

import dataclasses

from flax import nnx

from jaxdistill.errors import ModelError
from jaxdistill.models.bodies.causal_lm import DecoderModel
from jaxdistill.models.bodies.text_encoder import check_config
from jaxdistill.models.family import Family, Options
from jaxdistill.models.hub.rules import Rule, embedding, norm
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.decoder_layer import Shape
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json


@dataclasses.dataclass(frozen=True)
class Gpt2Config:
    """The fields of a GPT-2 `config.json` that shape the model; `extra` is the whole file."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_config("gpt2", self, width=self.n_embd, heads=self.n_head)
        activation(self.activation_function)
        if self.scale_attn_by_inverse_layer_idx:
            raise ModelError(
                "gpt2.scale_attn_by_inverse_layer_idx: got True, only False is supported"
            )

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers, under the name the other families have for it."""
        return self.n_layer

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(
            layers=self.n_layer,
            width=self.n_embd,
            heads=self.n_head,
            vocabulary=self.vocab_size,
            positions=self.n_positions,
        )

    @property
    def shape(self) -> Shape:
        """What the decoder is made of."""
        head_width = self.n_embd // self.n_head
        return Shape(
            width=self.n_embd,
            depth=self.n_layer,
            heads=self.n_head,
            key_heads=self.n_head,
            head_width=head_width,
            inner=self.n_inner or 4 * self.n_embd,
            vocabulary=self.vocab_size,
            act=self.activation_function,
            epsilon=self.layer_norm_epsilon,
            scale=head_width**-0.5 if self.scale_attn_weights else 1.0,
            norm="layer",
            gated=False,
            attention_bias=True,
            output_bias=True,
            mlp_bias=True,
            tied=self.tie_word_embeddings,
            positions=self.n_positions,
            attention_rate=self.attn_pdrop,
            rate=self.resid_pdrop,
            embedding_rate=self.embd_pdrop,
            stddev=self.initializer_range,
            # Section 2.3: what each layer adds to the residual stream starts smaller with depth.
            output_stddev=self.initializer_range * (2 * self.n_layer) ** -0.5,
        )


def _build(config: Gpt2Config, options: Options, rngs: nnx.Rngs) -> DecoderModel:
    return DecoderModel(config.shape, options, rngs)


def _dense(ours: str, theirs: str, part: tuple[int, int] | None = None) -> list[Rule]:
    # Stored [in, out] as ours, unlike in the other families.
    return [
        Rule(f"{ours}/kernel", f"{theirs}.weight", part=part),
        Rule(f"{ours}/bias", f"{theirs}.bias", part=part),
    ]


def _rules(config: Gpt2Config, options: Options) -> list[Rule]:
    layer = "transformer.h.{layer}"
    rules = [
        *embedding("embeddings/word", "transformer.wte"),
        *embedding("embeddings/position", "transformer.wpe"),
        *norm("layers/attention_norm", f"{layer}.ln_1"),
        *_dense("layers/attention/query", f"{layer}.attn.c_attn", (0, 3)),
        *_dense("layers/attention/key", f"{layer}.attn.c_attn", (1, 3)),
        *_dense("layers/attention/value", f"{layer}.attn.c_attn", (2, 3)),
        *_dense("layers/attention/output", f"{layer}.attn.c_proj"),
        *norm("layers/mlp_norm", f"{layer}.ln_2"),
        *_dense("layers/up", f"{layer}.mlp.c_fc"),
        *_dense("layers/down", f"{layer}.mlp.c_proj"),
        *norm("norm", "transformer.ln_f"),
    ]
    if options.head == "lm" and not config.tie_word_embeddings:
        rules.append(Rule("head/kernel", "lm_head.weight", (1, 0), group="head"))
    return rules


GPT2 = Family(
    name="gpt2",
    modality="text",
    paper="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    config=Gpt2Config,
    build=_build,
    rules=_rules,
    architectures={"lm": "GPT2LMHeadModel", None: "GPT2Model"},
    prefix="transformer",
    aliases={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),
    head_tensors={"lm": r"lm_head\..*"},
    field_aliases={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    output="head",
)

FAMILIES = (GPT2,)
