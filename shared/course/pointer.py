"""An encoder–decoder that can copy: the pointer-generator network on top of two BERTs, known to the library's Auto classes.

A plain encoder–decoder has to learn, from random cross-attention, to find a token in the source and then to name it out of
the whole vocabulary. Here naming is built in, and only finding is left to learn. Knows nothing of data sets.

Importing this module registers the class, so that `AutoModelForSeq2SeqLM.from_pretrained` loads one; in profile laptop the
course's setup does so. Its tokenizer opens every text with [CLS], so the labels begin with [CLS] and the decoder starts from
[SEP], as BART's does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, EncoderDecoderConfig, EncoderDecoderModel, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

LEAST = 1e-10  # added to every probability: the logarithm of a token that is neither likely nor in the source


class PointerConfig(EncoderDecoderConfig):
    """An EncoderDecoderConfig of its own type. `pretraining` notes what `shared.course.pretrain` taught the model."""

    model_type = "pointer-encoder-decoder"
    pretraining: dict | None = None


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
        """Shares of the source's places, float32 [batch, target, source], each row summing to one.

        Args:
            states: [batch, target, size], the decoder's. encoded: [batch, source, size], the encoder's.
            source: [batch, source] token ids. mask: the same shape, 0 where it is padding.
            written: [batch, target] token ids that the decoder has read, the last one written at each step.
        """
        scores = self.query(states) @ self.key(encoded).transpose(1, 2) / encoded.shape[-1] ** 0.5
        before = source.roll(1, dims=1)
        before[:, :2] = -1  # nothing stands before the opening token; a target opens with it too, and that is no sign of copying
        scores = scores.float() + self.follow.float() * (written[:, :, None] == before[:, None, :])
        return scores.masked_fill(mask[:, None, :] == 0, torch.finfo(scores.dtype).min).softmax(-1)

    def weigh(self, states: Tensor, encoded: Tensor, source: Tensor, mask: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """The shares of `attention`, whose arguments it takes, and the decoder's own part in the mixture, float32 [batch, target, 1]."""
        shares = self.attention(states, encoded, source, mask, written)
        pointed_at = shares.to(encoded.dtype) @ encoded
        return shares, self.gate(torch.cat([states, pointed_at], dim=-1)).float().sigmoid()

    def forward(self, logits: Tensor, states: Tensor, encoded: Tensor, source: Tensor, mask: Tensor, written: Tensor) -> Tensor:
        """Log-probabilities of the next token, [batch, target, vocabulary], from the decoder's `logits` of that shape.

        The other arguments are those of `attention`. Half precision is left here: probabilities are added up.
        """
        shares, gate = self.weigh(states, encoded, source, mask, written)
        places = source[:, None, :].expand_as(shares)
        return (gate * logits.float().softmax(-1)).scatter_add(-1, places, (1 - gate) * shares).add(LEAST).log()

    def loss(self, labels: Tensor, logits: Tensor, *others: Tensor) -> Tensor:
        """The mean of -log P over the labels that are not -100, [batch, target]; the rest as in `forward`.

        What `forward` gives for the labels alone: the mixture is computed for no token that is not asked for, which saves most of its
        memory and time where the vocabulary is large.
        """
        shares, gate = self.weigh(*others)
        source, counted, wanted = others[2], labels != -100, labels.clamp(min=0)
        copied = (shares * (source[:, None, :] == wanted[:, :, None])).sum(-1)
        surprise = nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none")
        own = (-surprise).exp().view_as(wanted)
        likely = gate[:, :, 0] * own + (1 - gate[:, :, 0]) * copied
        return -((likely + LEAST).log() * counted).sum() / counted.sum()


class PointerEncoderDecoder(EncoderDecoderModel):
    """An EncoderDecoderModel whose `logits` are the log-probabilities of a `Pointer`, for evaluation and `generate` alike.

    Takes what EncoderDecoderModel takes. Encoder and decoder share a vocabulary and a hidden size; else ValueError. In training
    a model that is given labels returns the loss and no logits.
    """

    config: PointerConfig
    config_class = PointerConfig
    accepts_loss_kwargs = False  # the loss is a mean over the batch, so the Trainer divides it where it accumulates

    def __init__(
        self,
        config: PointerConfig | None = None,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ) -> None:
        if config is None and encoder is not None and decoder is not None:
            config = PointerConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
        super().__init__(config, encoder, decoder)
        read, write = self.config.encoder, self.config.decoder
        if (read.vocab_size, read.hidden_size) != (write.vocab_size, write.hidden_size):
            raise ValueError("a copying model reads and writes the same vocabulary, in states of the same size")
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # nobody reads it, and weights without a gradient stop a training of several processes
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
        read = (out.logits, out.decoder_hidden_states[-1], out.encoder_last_hidden_state, source, mask, decoder_input_ids)
        loss = None if labels is None else self.pointer.loss(labels, *read)
        logits = None if self.training and labels is not None else self.pointer(*read)
        hidden = {} if wanted else {"decoder_hidden_states": None, "encoder_hidden_states": None}  # else a Trainer would gather them
        return Seq2SeqLMOutput(**(dict(out) | {"loss": loss, "logits": logits} | hidden))

    def generate(self, inputs: Tensor | None = None, **others: Any) -> Any:
        """As every model's: takes `inputs` or `input_ids`, [batch, source] token ids, and what `generate` takes."""
        source = others.get("input_ids") if inputs is None else inputs
        return super().generate(inputs, decoder_source_ids=source, **others)  # `generate` keeps what begins with decoder_ from the encoder


AutoConfig.register(PointerConfig.model_type, PointerConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(PointerConfig, PointerEncoderDecoder, exist_ok=True)
