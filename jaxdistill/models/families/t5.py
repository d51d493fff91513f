"""T5, v1.0 and v1.1: configs, names, and how a tied head is recognized."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flax import nnx

from jaxdistill.errors import ModelError
from jaxdistill.files.model_folder import Stored
from jaxdistill.models.bodies.seq2seq import EncoderDecoderModel
from jaxdistill.models.bodies.text_encoder import check_config
from jaxdistill.models.family import Family, Options
from jaxdistill.models.hub.rules import Rule, embedding, linear, norm
from jaxdistill.models.layers.activations import activation
from jaxdistill.models.layers.seq2seq_layer import TwoStacks
from jaxdistill.models.sizes import Sizes
from jaxdistill.types import Json


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The fields of a T5 `config.json` that shape the model; `extra` is the whole file.

    `scale_decoder_outputs` says whether the head's input is divided by the root of the width, as in
    v1.0; older files say it by `tie_word_embeddings`, which held for v1.0 only.
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    decoder_start_token_id: int | None = None
    pad_token_id: int = 0
    extra: Json = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_config("t5", self, width=self.d_model, heads=1)
        defaults = {
            "num_decoder_layers": self.num_layers,
            "scale_decoder_outputs": self.tie_word_embeddings,
            "decoder_start_token_id": self.pad_token_id,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if not 0 <= self.dropout_rate <= 1:
            raise ModelError(f"t5.dropout_rate: got {self.dropout_rate}, expected 0 to 1")
        count, longest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if count < 4 or count % 4 or longest <= count // 2:
            raise ModelError(
                f"t5.relative_attention_num_buckets: got {count} with a max_distance of {longest}, "
                "expected a multiple of 4, and more than half of it as max_distance"
            )
        kind = self.feed_forward_proj.split("-")
        if len(kind) > 2 or (len(kind) == 2 and kind[0] != "gated"):
            raise ModelError(
                f"t5.feed_forward_proj: got {self.feed_forward_proj!r}, expected the name of an "
                "activation, or gated- and that name"
            )
        activation(self.act)

    @property
    def act(self) -> str:
        """Name of the activation."""
        named = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else named

    @property
    def num_hidden_layers(self) -> int:
        """Number of decoder layers, under the name the other families have for it."""
        return self.num_decoder_layers or self.num_layers

    @property
    def sizes(self) -> Sizes:
        """What its fields say of its sizes."""
        return Sizes(
            layers=self.num_hidden_layers,
            width=self.d_model,
            heads=self.num_heads,
            head_width=self.d_kv,
            vocabulary=self.vocab_size,
        )

    @property
    def stacks(self) -> TwoStacks:
        """What the model is made of."""
        return TwoStacks(
            width=self.d_model,
            heads=self.num_heads,
            head_width=self.d_kv,
            inner=self.d_ff,
            vocabulary=self.vocab_size,
            encoder_depth=self.num_layers,
            decoder_depth=self.num_hidden_layers,
            act=self.act,
            gated=self.feed_forward_proj.startswith("gated-"),
            epsilon=self.layer_norm_epsilon,
            rate=self.dropout_rate,
            buckets=self.relative_attention_num_buckets,
            longest=self.relative_attention_max_distance,
            tied=self.tie_word_embeddings,
            head_scale=self.d_model**-0.5 if self.scale_decoder_outputs else 1.0,
            start_id=self.decoder_start_token_id or 0,
            pad_id=self.pad_token_id,
            factor=self.initializer_factor,
        )


def _build(config: T5Config, options: Options, rngs: nnx.Rngs) -> EncoderDecoderModel:
    return EncoderDecoderModel(config.stacks, options, rngs)


def _attention(ours: str, theirs: str) -> list[Rule]:
    parts = {"query": "q", "key": "k", "value": "v", "output": "o"}
    return [
        rule
        for part, name in parts.items()
        for rule in linear(f"{ours}/{part}", f"{theirs}.{name}", bias=False)
    ]


def _stack(name: str, gated: bool) -> list[Rule]:
    layer, first = f"{name}.block.{{layer}}.layer", f"{name}.block.0.layer.0.SelfAttention"
    last = 2 if name == "decoder" else 1
    dense = f"{layer}.{last}.DenseReluDense"
    rules = [
        *embedding(f"{name}/position", f"{first}.relative_attention_bias"),
        *norm(f"{name}/layers/attention_norm", f"{layer}.0.layer_norm", bias=False),
        *_attention(f"{name}/layers/attention", f"{layer}.0.SelfAttention"),
        *norm(f"{name}/layers/mlp_norm", f"{layer}.{last}.layer_norm", bias=False),
        *linear(f"{name}/layers/down", f"{dense}.wo", bias=False),
        *norm(f"{name}/norm", f"{name}.final_layer_norm", bias=False),
    ]
    inward = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
    for ours, theirs in inward.items():
        rules += linear(f"{name}/layers/{ours}", f"{dense}.{theirs}", bias=False)
    if name == "decoder":
        rules += norm(f"{name}/layers/cross_norm", f"{layer}.1.layer_norm", bias=False)
        rules += _attention(f"{name}/layers/cross_attention", f"{layer}.1.EncDecAttention")
    return rules


def _rules(config: T5Config, options: Options) -> list[Rule]:
    gated = config.stacks.gated
    rules = embedding("embeddings/word", "shared")
    rules += [*_stack("encoder", gated), *_stack("decoder", gated)]
    if options.head == "lm" and not config.tie_word_embeddings:
        rules += linear("head", "lm_head", bias=False, group="head")
    return rules


def _settled(config: T5Config, stored: Mapping[str, Stored]) -> T5Config:
    """Tie the head where no other is stored, and untie it where another one is.

    Files written since transformers 5 say that it is tied, whatever it is.
    """
    table, head = stored.get("shared.weight"), stored.get("lm_head.weight")
    written_since = "scale_decoder_outputs" in config.extra
    if table is None or (head is None and not written_since):
        return config
    return dataclasses.replace(config, tie_word_embeddings=head is None or head.equals(table))


T5 = Family(
    name="t5",
    modality="text",
    paper="Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified "
    "Text-to-Text Transformer",
    config=T5Config,
    build=_build,
    rules=_rules,
    architectures={"lm": "T5ForConditionalGeneration", None: "T5Model"},
    aliases=dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
        "shared.weight",
    ),
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    head_tensors={"lm": r"lm_head\..*"},
    field_aliases={
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
    },
    output="head",
    settle=_settled,
)

FAMILIES = (T5,)
