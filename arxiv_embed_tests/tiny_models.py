"""Tiny models: folders of a real architecture with random weights and a tokenizer of their own."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, Qwen2Config, Qwen2Model
from transformers.utils import logging

WORDS = [
    "the",
    "of",
    "and",
    "a",
    "in",
    "to",
    "we",
    "is",
    "for",
    "that",
    "with",
    "on",
    "this",
    "by",
    "as",
    "are",
    "model",
    "field",
    "theory",
    "quantum",
    "star",
    "galaxy",
    "ing",
    "ed",
]


def wordpieces() -> Tokenizer:
    """A BERT's tokenizer: every ASCII character, a few words; [CLS] before a text and [SEP] behind it."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{c}" for c in characters), *WORDS]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def bytepairs(texts: Sequence[str] = (" ".join(WORDS),) * 4, size: int = 300) -> Tokenizer:
    """A decoder's tokenizer, made from texts: bytes, blanks kept with the word behind them, no special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def unigrams() -> Tokenizer:
    """A SentencePiece tokenizer: compatible characters made one, a blank kept as ▁ with the word behind it, </s> last;
    what it does not know, however long, is one token."""
    pieces = ["<unk>", "</s>", "▁", *string.ascii_letters, *string.digits, *string.punctuation]
    words = [f"▁{word}" for word in WORDS if len(word) > 1]
    tokenizer = Tokenizer(models.Unigram([*((piece, -6.0) for piece in pieces), *((word, -4.0) for word in words)], 0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def save_bert(folder: Path, tokenizer: Tokenizer | None = None, **changes: Any) -> BertModel:
    """Two layers, width 32, 64 positions; `changes` go into the configuration."""
    config: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    return save(BertModel, BertConfig, folder, tokenizer or wordpieces(), config | changes)


def save_distilbert(folder: Path, tokenizer: Tokenizer | None = None) -> DistilBertModel:
    config = {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 64}
    return save(DistilBertModel, DistilBertConfig, folder, tokenizer or wordpieces(), config)


def save_qwen2(folder: Path, tokenizer: Tokenizer | None = None) -> Qwen2Model:
    """A causal model: two layers, width 32, 64 positions."""
    config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    return save(Qwen2Model, Qwen2Config, folder, tokenizer or bytepairs(), config)


def save_pooling(folder: Path, mode: str) -> None:
    """Writes the sentence-transformers files that name a pooling: "cls_token", "mean_tokens", "lasttoken"."""
    place = folder / "1_Pooling"
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))


def save(kind: Any, config_kind: Any, folder: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> Any:
    """A model of that architecture, pooled by the mean."""
    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    model = kind(config_kind(vocab_size=tokenizer.get_vocab_size(), **config)).eval()
    with torch.no_grad():  # far from what weights begin as: texts differ, and no bias or norm can be left out unseen
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_pooling(folder, "mean_tokens")
    return model
