"""Frozen text encoders: any BERT- or GPT-like model that the transformers library opens from a folder.

    tokens   the last states of all tokens
    mean     their mean, as sentence encoders of BERT's kind are trained for         (Reimers & Gurevych 2019, section 3)
    last     the state of the last token, which in a model that reads left to right depends on the whole text

States are divided by their root mean square over the data, so that the network receives numbers of size 1 whatever the
encoder.  The encoder stays outside the model file, which names it and holds the SHA-256 of its weights and its
tokenizer: another encoder under the same name is refused.  Only safetensors are loaded, no code of the folder is run,
and nothing is fetched unless you allow it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from undiffuse.errors import Failure, UsageError
from undiffuse.system import optional

Pooling = Literal["tokens", "mean", "last"]
BATCH = 64
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")  # without any, the library makes up an empty one
IDENTITY = ("*.safetensors", "config.json", "merges.txt", "tokenizer_config.json", *VOCABULARIES)


class TransformerEncoder(BaseModel):
    """A frozen transformer, and how its states are used."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["transformer"] = Field("transformer", description="Which kind of text encoder this is.")
    source: str = Field(description="Folder of the encoder, or its name on the hub.")
    sha256: str = Field(description="SHA-256 of its files, in hexadecimal digits.")
    architecture: str = Field(description="Class of the encoder in transformers, such as BertModel.")
    pooling: Pooling = Field(description="How the states of the tokens are used: mean, last, or tokens (all of them).")
    width: int = Field(gt=0, description="Numbers in a state.")
    most: int = Field(gt=0, description="Tokens of the longest text that is accepted.")
    scale: float = Field(1.0, gt=0, description="What the states are divided by, above 0.")


class TextEncoder:
    """A frozen encoder. Use `states`.

    source: a folder, or a name on the hub.   download: whether it may be fetched from there.
    Raises RuntimeError where it, or the library, is not here, ValueError for a folder that is none.
    """

    def __init__(self, source: str, download: bool = False) -> None:
        self.folder = _folder(source, download)
        library = optional("transformers")
        library.utils.logging.disable_progress_bar()
        if not any(path for pattern in VOCABULARIES for path in self.folder.glob(pattern)):
            raise UsageError(
                f"{self.folder} holds no text encoder with a tokenizer of its own: give a folder with a tokenizer.json as well."
            )
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer: Any = library.AutoTokenizer.from_pretrained(self.folder, **safe)
            self.model: Any
            self.model, loaded = library.AutoModel.from_pretrained(
                self.folder, use_safetensors=True, output_loading_info=True, **safe
            )
        except Exception as error:  # the library raises many kinds; of one folder, all mean the same
            first = (str(error).splitlines() or [""])[0]
            raise UsageError(
                f"{self.folder} holds no text encoder that can be opened safely, with safetensors and a tokenizer ({first})."
            ) from None
        missing = [
            name for name in loaded["missing_keys"] if "pooler" not in name
        ]  # the pooler is not used, so it may be missing
        if missing:
            raise UsageError(
                f"the weights in {self.folder} are not all of a {type(self.model).__name__}, {missing[0]} is missing: fetch them again."
            )
        self.model.eval()
        if self.tokenizer.pad_token is None:  # GPT-like models have none; what is padded is masked, so any token serves
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.tokenizer.padding_side = "right"
        self.width: int = getattr(self.model.config, "hidden_size", 0)
        if not self.width or getattr(self.model.config, "is_encoder_decoder", False):
            raise UsageError(
                f"{self.folder} holds a {type(self.model).__name__}, which reads more than one text: give an encoder like BERT or GPT."
            )
        positions = max(
            int(getattr(self.model.config, name, 0) or 0) for name in ("max_position_embeddings", "n_positions")
        )
        self.takes = min(positions or 512, self.tokenizer.model_max_length)  # RoBERTa has positions that it cannot use

    @property
    def reads_left_to_right(self) -> bool:
        """Whether it is GPT-like, where only the last token depends on the whole text."""
        names = [type(self.model).__name__, *(self.model.config.architectures or [])]
        return bool(getattr(self.model.config, "is_decoder", False)) or any(
            "GPT" in name or "CausalLM" in name for name in names
        )

    def length(self, texts: list[str]) -> int:
        """Tokens of the longest text. Raises UsageError for one longer than the encoder takes."""
        lengths = [len(tokens) for tokens in self.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
        _check(texts, lengths, self.takes)
        return max(lengths)

    def states(self, texts: list[str], config: TransformerEncoder) -> Tensor:
        """States divided by `scale`, each with a last 1: (n, width + 1), or (n, most, width + 1), 0 where no token is."""
        parts = list(self.batches(texts, config))
        if config.pooling == "tokens":
            parts = [torch.nn.functional.pad(part, (0, 0, 0, config.most - part.shape[1])) for part in parts]
        return torch.cat(parts)

    @torch.no_grad()
    def batches(self, texts: list[str], config: TransformerEncoder) -> Iterator[Tensor]:
        """The same a few texts at a time, those of tokens only as long as the longest of them."""
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            tokens = self.tokenizer(batch, padding=True, truncation=False, return_tensors="pt", verbose=False)
            there = tokens["attention_mask"]
            _check(batch, there.sum(1).tolist(), config.most)
            state = (
                self.model(input_ids=tokens["input_ids"], attention_mask=there).last_hidden_state.float() / config.scale
            )
            present = there[:, :, None].float()
            if config.pooling == "tokens":
                yield torch.cat([state * present, present], 2)
            else:
                last = there.sum(1).clamp(min=1) - 1
                pooled = (
                    (state * present).sum(1) / present.sum(1).clamp(min=1)
                    if config.pooling == "mean"
                    else state[torch.arange(len(state)), last]
                )
                yield torch.cat([pooled, torch.ones(len(pooled), 1)], 1)

    def sha256(self) -> str:
        """Of the files that decide what it answers."""
        digest = hashlib.sha256()
        for path in sorted({path for pattern in IDENTITY for path in self.folder.glob(pattern)}):
            digest.update(path.name.encode())
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def _check(texts: list[str], lengths: list[int], most: int) -> None:
    long = [k for k, length in enumerate(lengths) if length > most]
    if long:
        raise UsageError(
            f"{texts[long[0]][:30]!r}… has {lengths[long[0]]} tokens, and the text encoder takes at most {most}"
            f"{f' ({len(long)} texts are too long)' if len(long) > 1 else ''}: shorten it."
        )


def describe_encoder(
    source: str, pooling: Pooling | None, texts: list[str], download: bool = False, measured: list[str] | None = None
) -> TransformerEncoder:
    """The configuration of the encoder at `source` for the texts of a data set.

    pooling: "last" of encoders that read left to right and "mean" of others, where None.   measured: the texts that the size of states is
    measured on, all when None or empty.
    """
    encoder, different = TextEncoder(source, download), list(dict.fromkeys(texts))
    config = TransformerEncoder(
        source=str(encoder.folder.resolve()) if Path(source).expanduser().is_dir() else source,
        sha256=encoder.sha256(),
        architecture=type(encoder.model).__name__,
        pooling=pooling or ("last" if encoder.reads_left_to_right else "mean"),
        width=encoder.width,
        most=encoder.length(different) if pooling == "tokens" else encoder.takes,
    )
    states = encoder.states(list(dict.fromkeys(measured or texts))[:1024], config)
    present = states[..., -1] > 0
    return config.model_copy(update={"scale": states[..., :-1][present].square().mean().sqrt().item()})


def open_encoder(config: TransformerEncoder, source: str | None = None, download: bool = False) -> TextEncoder:
    """The encoder of a model. Raises UsageError for another one than it was trained with."""
    encoder = TextEncoder(source or config.source, download)
    if encoder.sha256() != config.sha256:
        raise UsageError(
            f"the text encoder in {encoder.folder} is not the one the model was trained with ({Path(config.source).name}, "
            f"SHA-256 {config.sha256[:12]}…): give that one as `encoder`."
        )
    return encoder


def _folder(source: str, download: bool) -> Path:
    """The folder of an encoder, also of one that the hub's cache on this machine has."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    name = Path(source).name
    looks_like_hub = not source.startswith(("/", ".", "~")) and source.count("/") <= 1
    fix = "give its folder as `encoder`" + (", or let it be fetched by `download`" if looks_like_hub else "")
    if not looks_like_hub:
        raise Failure(
            f"the text encoder {name} is not in {path.parent}: {fix} (needs the extra: pip install 'undiffuse[text]')."
        )
    hub = optional("huggingface_hub")
    try:
        return Path(
            hub.snapshot_download(source, local_files_only=not download, allow_patterns=[*IDENTITY, "*.json", "*.txt"])
        )
    except (OSError, ValueError) as error:
        if download:
            why = (str(error).splitlines() or [""])[0]
            raise Failure(
                f"the text encoder {source} cannot be fetched ({why}): give its folder as `encoder`."
            ) from None
        raise Failure(
            f"the text encoder {source} is not on this machine, neither as a folder nor in the hub's cache: {fix} "
            "(needs the extra: pip install 'undiffuse[text]')."
        ) from None
