"""Language models of a few kilobytes with random weights, in the format of transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

TEXTS = [
    "a red apple, highly detailed, sharp focus, artstation, concept art, 8k",
    "Instruction: Give a simple description of the image to generate a drawing prompt. Input: 1 girl Output:",
    "portrait of a beautiful woman, long hair, intricate, cinematic lighting, digital painting, smooth, illustration",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def make_tokenizer(folder: Path, **more: Any) -> int:
    """Saves one that knows every byte; returns how many tokens it has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **more).save_pretrained(str(folder))
    return int(tokenizer.get_vocab_size())


def make_bloom(folder: Path, *, pickled: bool = False, seed: int = 0, **tokenizer: Any) -> Path:
    """`pickled`: pytorch_model.bin, as old models come, instead of safetensors."""
    folder.mkdir(parents=True)
    size = make_tokenizer(folder, **tokenizer)
    torch.manual_seed(seed)
    model = BloomForCausalLM(
        BloomConfig(
            vocab_size=size, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=3,
            initializer_range=0.3,
        )
    )  # fmt: skip
    if pickled:
        model.config.architectures = ["BloomForCausalLM"]
        model.config.save_pretrained(str(folder))
        state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
        torch.save(state, folder / "pytorch_model.bin")
    else:
        model.save_pretrained(str(folder))
    return folder


def make_gpt2(folder: Path, positions: int = 48) -> Path:
    folder.mkdir(parents=True)
    size = make_tokenizer(folder)
    torch.manual_seed(1)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size, n_positions=positions, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2,
            initializer_range=0.3,
        )
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


class _Attack:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._target),)


def make_attack(folder: Path, target: Path) -> Path:
    """A model whose pickle makes the folder `target` when it is read."""
    make_bloom(folder, pickled=True)
    torch.save({"transformer.word_embeddings.weight": _Attack(target)}, folder / "pytorch_model.bin")
    return folder


def make_code_model(folder: Path, target: Path) -> Path:
    """A model that wants to bring its own code, which would make the folder `target`."""
    make_bloom(folder)
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(target)!r})\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
