"""A decoder family that is no part of jaxdistill: a llama with another activation and a softcap."""

import dataclasses

from jaxdistill.models.families.llama import LlamaConfig, rotary_family


@dataclasses.dataclass(frozen=True)
class CappedLlamaConfig(LlamaConfig):
    """The fields of a llama's `config.json`, and the cap of its logits."""

    hidden_act: str = "gelu_pytorch_tanh"
    logit_cap: float = 20.0

    @property
    def shape(self):
        """What the decoder is made of."""
        return dataclasses.replace(super().shape, head_softcap=self.logit_cap)


FAMILY = rotary_family(
    "capped_llama",
    "Shazeer 2020, GLU Variants Improve Transformer",
    CappedLlamaConfig,
    "CappedLlama",
)
