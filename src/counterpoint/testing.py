"""What a test can use: pico models that build in milliseconds, a scripted one, a tokenizer for any text, toy rewards.

Everything is random but reproducible, and leaves the global random state as it was.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from counterpoint.types import Prompt

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
WHOLE_WORDS = ("the", "and", "is", "of", "you", "user", "assistant", "system")
"""Words that are one token after a space; all else falls back to bytes, so that lengths differ and any text works."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def pico_tokenizer() -> Any:
    """A byte-level tokenizer with a few whole words, `<pad>` 0, `<s>` 1, `</s>` 2 and a chat template.

    Its merges cross the border of prompt and response ("t" + "he"), as real ones do.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([PAD, BOS, EOS, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in WHOLE_WORDS:
        _merge_whole("Ġ" + word, vocabulary, merges)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _merge_whole(word: str, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    for end in range(2, len(word) + 1):
        pair = (word[: end - 1], word[end - 1])
        if pair not in merges:
            merges.append(pair)
            vocabulary[word[:end]] = len(vocabulary)


WINDOW = 8
"""Tokens that a pico model's sliding layers see: fewer than most test sequences hold, so that the window matters."""

PECULIAR: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, "head_dim": 12},
    "gemma2": {
        "sliding_window": WINDOW, "head_dim": 12, "query_pre_attn_scalar": 4,
        "attn_logit_softcapping": 1.0, "final_logit_softcapping": 4.0,
    },
    "gemma3_text": {
        "sliding_window": WINDOW, "sliding_window_pattern": 2, "head_dim": 12, "query_pre_attn_scalar": 4,
    },
    "gpt2": {"n_inner": 64},
}  # fmt: skip
"""What sets each family apart, strong enough to be seen: windows, unlike layer types, soft caps, wide heads.

Layers alternate between full and sliding attention where a family has both.
"""


def pico_model(
    seed: int = 0,
    family: str = "llama",
    vocab: int | None = None,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    positions: int = 512,
    spread: float = 0.2,
    **peculiar: Any,
) -> Any:
    """A random model in evaluation mode; `vocab` defaults to `pico_tokenizer`'s.

    `spread` is the standard deviation of its parameters: ten times the usual, so that logits differ by about one.
    `peculiar` sets further fields of the family's config, in place of those in `PECULIAR`.
    """
    grouped = {} if family == "gpt2" else {"intermediate_size": 2 * hidden, "num_key_value_heads": kv_heads}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(pico_tokenizer()) if vocab is None else vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        initializer_range=spread,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **grouped,
        **(PECULIAR[family] | peculiar),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def save_pico(folder: Path, seed: int = 0, family: str = "llama", **options: Any) -> Path:
    """Write a pico model and its tokenizer as a Hugging Face folder; `options` are those of `pico_model`."""
    pico_model(seed, family, **options).save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    return folder


def pico_adapter(
    folder: Path,
    base: Path,
    seed: int = 0,
    rank: int = 4,
    alpha: int = 8,
    rslora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, int] | None = None,
    targets: str | Sequence[str] = "all-linear",
    spread: float = 0.1,
) -> Path:
    """Write a random PEFT LoRA adapter for the model folder `base`; both factors are normal: its delta is not zero."""
    plain = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_rslora=rslora,
        rank_pattern=dict(rank_pattern or {}),
        alpha_pattern=dict(alpha_pattern or {}),
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=plain.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(plain, config)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=spread, generator=generator)
    model.save_pretrained(folder)
    return folder


class ScriptedLM:
    """A `LanguageModel` without a model: next-token logits are `script(gate, context)`.

    `gate` is the names of a row's experts joined by "+" (empty for the base), `context` every token that the row has
    seen. `calls` records what was asked of it. Raises AssertionError for a call that the protocol does not allow.
    """

    def __init__(self, vocabulary: int, script: Callable[[str, tuple[int, ...]], Sequence[float]]) -> None:
        self.vocabulary = vocabulary
        self.script = script
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self._gates: list[str] = []
        self._seen: list[tuple[int, ...]] = []
        self._due: list[int | None] = []
        self._unfilled: list[int] = []
        self._stepped: list[bool] = []

    @property
    def rows(self) -> int:
        """Live rows."""
        return len(self._seen)

    def join(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        self.begin(contexts, gates)
        self.fill()

    def begin(self, contexts: Sequence[Sequence[int]], gates: Sequence[Mapping[str, float]]) -> None:
        self.calls.append(("join", tuple(map(len, contexts))))
        assert contexts, "join of no rows"
        assert len(contexts) == len(gates), f"{len(contexts)} contexts but {len(gates)} gates"
        assert not any(self._unfilled), "others join while rows are being filled"
        for context, gate in zip(contexts, gates, strict=True):
            assert context, "a row without a context"
            assert all(0 <= token < self.vocabulary for token in context), f"not in the vocabulary: {context}"
            self._gates.append("+".join(name for name, coefficient in gate.items() if coefficient))
            self._seen.append(tuple(context[:-1]))
            self._due.append(context[-1])
            self._unfilled.append(len(context) - 1)
            self._stepped.append(False)

    def fill(self, most: int | None = None) -> bool:
        """A row at a time, each at most `most` tokens."""
        row = next((row for row, left in enumerate(self._unfilled) if left), None)
        if most is None:
            self._unfilled = [0] * self.rows
        elif row is not None:
            self.calls.append(("fill", (row, min(most, self._unfilled[row]))))
            self._unfilled[row] -= min(most, self._unfilled[row])
        return not any(self._unfilled)

    def step(self, tokens_B: Sequence[int]) -> torch.Tensor:
        self.calls.append(("step", tuple(tokens_B)))
        assert tokens_B, "step of no rows"
        assert len(tokens_B) <= self.rows, f"{len(tokens_B)} tokens for {self.rows} rows"
        assert not any(self._stepped[len(tokens_B) :]), "a row that was stepped before is left out"
        self._stepped[: len(tokens_B)] = [True] * len(tokens_B)
        return torch.stack([self._feed(row, [token])[-1] for row, token in enumerate(tokens_B)])

    def extend(self, rows: Sequence[int], tokens_RT: Sequence[Sequence[int]]) -> torch.Tensor:
        self.calls.append(("extend", tuple(rows)))
        return torch.stack([self._feed(row, tokens) for row, tokens in zip(rows, tokens_RT, strict=True)])

    def _feed(self, row: int, tokens: Sequence[int]) -> torch.Tensor:
        """The logits after each of a row's next tokens, `[T, V]`."""
        assert not self._unfilled[row], f"row {row} is not filled"
        logits = []
        for token in tokens:
            due = self._due[row]
            assert 0 <= token < self.vocabulary, f"token {token} is not in the vocabulary"
            assert due is None or token == due, f"row {row} joined before {due}, but {token} was fed"
            self._seen[row] += (token,)
            self._due[row] = None
            logits.append(list(self.script(self._gates[row], self._seen[row])))
        return torch.tensor(logits, dtype=torch.float32)

    def keep(self, rows: Sequence[int]) -> None:
        self.calls.append(("keep", tuple(rows)))
        assert len(set(rows)) == len(rows), f"a row is kept twice: {list(rows)}"
        assert all(place <= row < self.rows for place, row in enumerate(rows)), f"no move to the front: {list(rows)}"
        self._gates, self._seen = [self._gates[row] for row in rows], [self._seen[row] for row in rows]
        self._due, self._unfilled = [self._due[row] for row in rows], [self._unfilled[row] for row in rows]
        self._stepped = [self._stepped[row] for row in rows]


class LetterReward:
    """A toy reward on one dimension: the share of a response's characters that are `letter` (0 for an empty one)."""

    def __init__(self, letter: str, dimension: str = "toy") -> None:
        self.letter = letter
        self.dimension = dimension

    @property
    def dimensions(self) -> tuple[str, ...]:
        return (self.dimension,)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        return np.array([[r.count(self.letter) / max(len(r), 1)] for r in responses], dtype=np.float64).reshape(-1, 1)
