"""A text as a condition, read by one of two kinds of encoder.

    words         light, needs nothing else, trained along: every word is a few rows of one table, found by hashing the
                  word and its three-letter parts, so unknown words get embeddings similar to related words
                  (Bojanowski et al. 2017, fastText, with the hashing of Weinberger et al. 2009)
    transformer   BERT- or GPT-like, from a folder, frozen (transformers.py): its states of all tokens, or pooled to one vector

Where positions attend to it, a text is its tokens; in layers or beside the input, their mean.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from undiffuse.conditioning.base import (
    EXAMPLES_AT_ONCE,
    ConditionModule,
    ConditionSettings,
    ParameterMap,
    two_layers,
    width_for,
)
from undiffuse.conditioning.encoded import Distinct, Encoded, EncodedColumn, Ragged, distinct, end_to_end, starts_of
from undiffuse.conditioning.fitting import Column, Fitting
from undiffuse.conditioning.transformers import TextEncoder, TransformerEncoder, describe_encoder, open_encoder
from undiffuse.errors import UsageError

WORD = re.compile(r"\w+|[^\w\s]")
WORDS = "words"  # the name of the encoder that is trained along
PARTS = 8  # of one word: the word itself and up to seven of its three-letter parts


class WordsEncoder(BaseModel):
    """Word vectors of a hashed table, trained with the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["words"] = Field("words", description="Which kind of text encoder this is.")
    buckets: int = Field(4096, gt=1, description="Rows of the hashed table of word vectors, at least 2.")
    most: int = Field(gt=0, description="Words of the longest text that is accepted.")


class TextConfig(ConditionSettings):
    """A text, through an encoder."""

    kind: Literal["text"] = Field("text", description="Which kind of condition this is.")
    encoder: Annotated[WordsEncoder | TransformerEncoder, Field(discriminator="kind")] = Field(
        description="What turns a text into vectors: words, trained with the model, or a frozen transformer."
    )

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> TextConfig:
        values, source = column.present(), how.declared.encoder
        texts, common = [str(value) for value in values], how.common(len(values) < len(column))
        encoder: WordsEncoder | TransformerEncoder
        if source in (None, WORDS):
            encoder = WordsEncoder(most=max(1, *(len(words_of(text)) for text in texts)))
        else:
            assert source is not None
            measured = [text for row in how.rows or () if (text := text_or_none(column.values[row])) is not None]
            encoder = describe_encoder(
                source, how.declared.pooling, texts, how.download, None if how.rows is None else measured
            )
        tokens = isinstance(encoder, WordsEncoder) or encoder.pooling == "tokens"
        return cls(encoder=encoder, **{"inject": "cross_attention" if tokens else "embedding"} | common)

    @classmethod
    def present(cls, value: object) -> object:
        return text_or_none(value)

    def merged_with(self, data: TextConfig) -> TextConfig:
        before, after = (c.encoder.model_dump(exclude={"most", "scale", "source"}) for c in (self, data))
        if before != after:
            raise UsageError(
                "its texts were read by another encoder than the model's: give that one as `encoder`, or give it another name."
            )
        now: dict[str, object] = {"most": max(self.encoder.most, data.encoder.most)}
        now |= {"source": data.encoder.source} if isinstance(data.encoder, TransformerEncoder) else {}
        return self._merged(data, encoder=self.encoder.model_copy(update=now))


def text_or_none(value: object) -> str | None:
    """A text, None where it is missing or blank."""
    return None if value is None or not (text := str(value)).strip() else text


def words_of(text: str) -> list[str]:
    """Lower-case words, and signs one by one."""
    return WORD.findall(text.lower())


def hashed(word: str, buckets: int) -> list[int]:
    """PARTS rows of the table, 1 … buckets; 0 where the word has fewer parts. CRC-32, the same everywhere."""
    parts = [word, *(f"<{word}>"[k : k + 3] for k in range(len(word)))][:PARTS]
    found = [1 + zlib.crc32(part.encode()) % buckets for part in parts]
    return found + [0] * (PARTS - len(found))


class Words(nn.Module):
    """Hashed words (B, most, PARTS) → tokens (B, most, width)."""

    def __init__(self, config: WordsEncoder, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(config.buckets + 1, width, padding_idx=0)
        self.place = nn.Parameter(torch.randn(config.most, width) / width**0.5)

    def forward(self, encoded: Tensor) -> Tensor:
        """encoded (B, n, parts), indices of rows of the table, 0 for none → (B, n, width)."""
        parts = (encoded > 0).sum(2, keepdim=True).clamp(min=1)
        out: Tensor = self.table(encoded).sum(2) / parts.sqrt() + self.place
        return out


class TextCondition(ConditionModule):
    """Encoded texts → embeddings (B, width), or tokens (B, n, width).

    Encoded are hashed words int64 (B, most, PARTS), states of tokens (B, most, d + 1) whose last number says whether the
    token is there, or pooled states (B, d + 1); zeros where the text is absent.
    source: where a transformer lies now, if not where it lay in training.   download: whether it may be fetched.
    """

    config: TextConfig
    source: str | None = None
    download: bool = False

    def __init__(self, config: TextConfig, width: int) -> None:
        super().__init__(config)
        encoder, out = config.encoder, width_for(config, width)
        self.tokens = isinstance(encoder, WordsEncoder) or encoder.pooling == "tokens"
        if isinstance(encoder, WordsEncoder):
            self.words = Words(encoder, width)
        self.mlp = two_layers(width if isinstance(encoder, WordsEncoder) else encoder.width + 1, out)

    def forward(self, encoded: Tensor) -> Tensor:
        if not self.tokens:
            pooled: Tensor = self.mlp(encoded)
            return pooled[:, None] if self.config.inject == "cross_attention" else pooled
        states = self.words(encoded) if isinstance(self.config.encoder, WordsEncoder) else encoded
        if self.config.inject != "cross_attention":
            there = (~self._absent(encoded)).to(states.dtype)[:, :, None]
            states = (states * there).sum(1) / there.sum(1).clamp(min=1)
        out: Tensor = self.mlp(states)
        return out

    def padding_mask(self, encoded: Tensor) -> Tensor | None:
        return self._absent(encoded) if self.tokens else None

    def _absent(self, encoded: Tensor) -> Tensor:
        return encoded[:, :, 0 if isinstance(self.config.encoder, WordsEncoder) else -1] == 0

    def null_token(self) -> Tensor:
        encoder = self.config.encoder
        if isinstance(encoder, WordsEncoder):
            return torch.zeros(encoder.most, PARTS, dtype=torch.int64)
        return torch.zeros(encoder.most, encoder.width + 1) if self.tokens else torch.zeros(encoder.width + 1)

    def parameter_map(self, old: TextCondition) -> dict[str, ParameterMap]:
        """Places in the text beyond the longest so far add nothing at first."""
        if not isinstance(self.config.encoder, WordsEncoder):
            return {}
        most = old.config.encoder.most
        return {"words.place": ParameterMap(0, tuple(k if k < most else None for k in range(self.config.encoder.most)))}

    @cached_property
    def encoder(self) -> TextEncoder:
        """The transformer, loaded when it is first needed and no part of the model's own weights."""
        assert isinstance(self.config.encoder, TransformerEncoder)
        return open_encoder(self.config.encoder, self.source, self.download)

    def encode(self, values: Sequence[object]) -> Tensor:
        """As of any condition; a blank text is absent."""
        return super().encode([text_or_none(value) for value in values])

    def encode_all(self, values: Sequence[object] | Tensor) -> Encoded:
        """Each different text once, its words or tokens without the padding to the longest."""
        texts, which = self.different(values)
        lengths = array("q")

        def content() -> Iterator[Tensor]:
            for part, each in self.parts(texts):
                lengths.extend(each)
                yield part

        return self.column(end_to_end(content(), self._empty()), lengths, which)

    def different(self, values: Sequence[object] | Tensor) -> tuple[list[str], Tensor]:
        """(the different texts, which of them each value is, int64 (N,), -1 for none). Raises UsageError where a text must be present and is not."""
        texts, which = distinct(text_or_none(value) for value in values)
        if (which < 0).any():
            self.require_null_token()
        return texts, which

    def parts(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, list[int]]]:
        """The encoded texts a few at a time: all their words or tokens end to end, (total, …), and how many each has; pooled states have 1."""
        encoder = self.config.encoder
        if not isinstance(encoder, WordsEncoder):
            for states in self.encoder.batches(list(texts), encoder):
                there = states[..., -1] > 0
                yield states[there], (there.sum(1).tolist() if self.tokens else [1] * len(states))
            return
        for start in range(0, len(texts), EXAMPLES_AT_ONCE):
            each = [self._words(text) for text in texts[start : start + EXAMPLES_AT_ONCE]]
            known = {word: hashed(word, encoder.buckets) for word in {word for words in each for word in words}}
            flat = [known[word] for words in each for word in words]
            yield torch.tensor(flat, dtype=torch.int32).reshape(-1, PARTS), [len(words) for words in each]

    def column(self, content: Tensor, lengths: Sequence[int] | Tensor, which: Tensor) -> EncodedColumn:
        """The column of what `parts` gave, one after another.   which: as of `different`."""
        if not self.tokens:
            return Distinct(content, which)
        return Ragged(content, starts_of(lengths), which, self.config.encoder.most, self.null_token().dtype)

    def _empty(self) -> Tensor:
        if isinstance(self.config.encoder, WordsEncoder):
            return torch.zeros(0, PARTS, dtype=torch.int32)
        return self.null_token()[:0] if self.tokens else self.null_token()[None, :][:0]

    def _words(self, text: str) -> list[str]:
        words, most = words_of(text), self.config.encoder.most
        if len(words) > most:
            raise UsageError(
                f"{text[:30]!r}… has {len(words)} words, and the model's encoder takes at most {most}: shorten it."
            )
        return words

    def read(self, values: Sequence[object]) -> Tensor:
        texts = [str(value) for value in values]
        encoder = self.config.encoder
        if not isinstance(encoder, WordsEncoder):
            different, which = distinct(texts)
            return self.encoder.states(different, encoder)[which]
        rows = torch.zeros(len(texts), encoder.most, PARTS, dtype=torch.int64)
        for row, text in enumerate(texts):
            if words := self._words(text):
                rows[row, : len(words)] = torch.tensor([hashed(word, encoder.buckets) for word in words])
        return rows
