"""An encoder–decoder that can copy: the pointer-generator network on top of two BERTs.

A plain encoder–decoder has to learn, from random cross-attention, to find a token in the source and then to name it out of
the whole vocabulary. Here naming is built in, and only finding is left to learn. Knows nothing of data sets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderConfig, EncoderDecoderModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

_LEAST = 1e-10  # added to every probability: the logarithm of a token that is neither likely nor in the source


class Pointer(nn.Module):
    """The mixture of writing and copying: See, Liu, Manning 2017 (arXiv 1704.04368), equations 8 and 9.

    Their additive attention is a scaled dot product here. Added to it is one learned number for every source token that comes
    right after the token written last, a short form of CopyNet's selective read (Gu et al. 2016, arXiv 1603.06393): to go on
    copying is one weight, not a circuit of two attention layers.
    """

    def __init__(self, size: int) -> None:
        """`size`: features of the encoder's and the decoder's states, which must agree."""
        super().__init__()
        self.query, self.key = nn.Linear(size, size), nn.Linear(size, size)
        # a single number moves by little more than the learning rate a step, so it starts where it works: e^4 is some 55 places' weight
        self.follow = nn.Parameter(torch.tensor(4.0))
        self.gate = nn.Linear(2 * size, 1)

    def attention(self, states: Tensor, encoded: Tensor, source: Tensor, mask: Tensor, written: Tensor) -> Tensor:
        """Shares of the source's places, [batch, target, source], each row summing to one.

        Args:
            states: [batch, target, size], the decoder's. encoded: [batch, source, size], the encoder's.
            source: [batch, source] token ids. mask: the same shape, 0 where it is padding.
            written: [batch, target] token ids that the decoder has read, the last one written at each step.
        """
        scores = self.query(states) @ self.key(encoded).transpose(1, 2) / encoded.shape[-1] ** 0.5
        before = source.roll(1, dims=1)
        before[:, :2] = -1  # nothing stands before the opening token, and that one is also what a BERT decoder starts from
        scores = scores + self.follow * (written[:, :, None] == before[:, None, :])
        return scores.masked_fill(mask[:, None, :] == 0, torch.finfo(scores.dtype).min).softmax(-1)

    def forward(self, logits: Tensor, states: Tensor, encoded: Tensor, source: Tensor, mask: Tensor, written: Tensor) -> Tensor:
        """Log-probabilities of the next token, [batch, target, vocabulary], from the decoder's `logits` of that shape.

        The other arguments are those of `attention`. Half precision is left here: probabilities are added up.
        """
        shares = self.attention(states, encoded, source, mask, written).float()
        pointed_at = shares.to(encoded.dtype) @ encoded
        gate = self.gate(torch.cat([states, pointed_at], dim=-1)).float().sigmoid()
        mixed = gate * logits.float().softmax(-1)
        places = source[:, None, :].expand(-1, shares.shape[1], -1)
        return mixed.scatter_add(-1, places, (1 - gate) * shares).add(_LEAST).log()


class PointerEncoderDecoder(EncoderDecoderModel):
    """An EncoderDecoderModel whose `logits` are the log-probabilities of a `Pointer`, for training and `generate` alike.

    Takes what EncoderDecoderModel takes. Encoder and decoder share a vocabulary and a hidden size; else ValueError.
    """

    def __init__(
        self,
        config: EncoderDecoderConfig | None = None,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config, encoder, decoder)
        read, write = self.config.encoder, self.config.decoder
        if (read.vocab_size, read.hidden_size) != (write.vocab_size, write.hidden_size):
            raise ValueError("a copying model reads and writes the same vocabulary, in states of the same size")
        self.config.architectures = [type(self).__name__]  # by which `copies` knows a saved one
        self.pointer = Pointer(write.hidden_size)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_source_ids: Tensor | None = None,
        **others: Any,
    ) -> Seq2SeqLMOutput:
        """As EncoderDecoderModel's; `decoder_source_ids` are the `input_ids` for a step that brings the encoder's outputs instead."""
        source = input_ids if decoder_source_ids is None else decoder_source_ids
        mask = torch.ones_like(source) if attention_mask is None else attention_mask
        if decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        wanted = others.pop("output_hidden_states", None)
        out = super().forward(
            input_ids=input_ids, attention_mask=mask, decoder_input_ids=decoder_input_ids, output_hidden_states=True, **others
        )
        states, encoded = out.decoder_hidden_states[-1], out.encoder_last_hidden_state
        logits = self.pointer(out.logits, states, encoded, source, mask, decoder_input_ids)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        hidden = {} if wanted else {"decoder_hidden_states": None, "encoder_hidden_states": None}  # else a Trainer would gather them
        return Seq2SeqLMOutput(**(dict(out) | {"loss": loss, "logits": logits} | hidden))

    def generate(self, inputs: Tensor | None = None, **others: Any) -> Any:
        """As every model's: takes `inputs` or `input_ids`, [batch, source] token ids, and what `generate` takes."""
        source = others.get("input_ids") if inputs is None else inputs
        return super().generate(inputs, decoder_source_ids=source, **others)  # `generate` keeps what begins with decoder_ from the encoder


def copies(config: PreTrainedConfig) -> bool:
    """Whether a configuration is a PointerEncoderDecoder's, which the library's Auto classes do not know."""
    return PointerEncoderDecoder.__name__ in (config.architectures or [])
