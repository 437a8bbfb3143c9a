"""MAT, multi-dimensional alignment tokens: Align-DFER's text side, learned tokens without words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...runtime.errors import DferError, ParameterError
from .clip import Clip


class AlignmentTokens(nn.Module):
    """One parameter [C,S,T_tok,E] instead of prompts: S sentences per class of T_tok learned tokens each, no words.

    A sentence is SOS, its tokens, ".", EOS, with CLIP's own embeddings for the fixed ones. The text transformer is
    causal, so the padding after EOS has no effect and is not computed.
    Align-DFER, section on MAT; initialisation N(0, 0.02) is our choice.

    Raises ParameterError if the sentence does not fit into CLIP's context.
    """

    def __init__(self, clip: Clip, classes: int, sentences: int, tokens: int) -> None:
        super().__init__()
        text = clip.text
        room = int(text.model.positional_embedding.shape[0]) - 3
        if not 1 <= tokens <= room:
            raise ParameterError("tokens", f"this CLIP has room for 1 to {room} tokens in a sentence, not {tokens}")
        self.tokens = nn.Parameter(torch.randn(classes, sentences, tokens, text.width) * 0.02)
        self.fixed = clip.tokenize(["."])[:, :3]  # ids of SOS, period, EOS; CLIP's weights may still be loaded

    def forward(self, clip: Clip) -> Tensor:
        """Return sentence features float32 [C,S,D] from `clip`'s frozen text encoder; only tokens get gradients."""
        classes, sentences, _, _ = self.tokens.shape
        flat = self.tokens.flatten(0, 1)
        fixed = clip.text.embed(self.fixed.to(flat.device)).expand(len(flat), -1, -1)
        embedded = torch.cat([fixed[:, :1], flat, fixed[:, 1:]], dim=1)
        features = clip.text.encode(embedded, embedded.shape[1] - 1)
        return features.view(classes, sentences, -1)


class WordedSentences(nn.Module):
    """Features of worded descriptions [C,S,D] instead of tokens: the baseline for MAT.

    A class with fewer than S descriptions repeats them in turn. They are stored as features, so a checkpoint needs
    neither the words nor a tokenizer.
    """

    def __init__(self, classes: int, sentences: int, width: int) -> None:
        super().__init__()
        self.features: Tensor
        self.register_buffer("features", torch.zeros(classes, sentences, width))

    @torch.no_grad()
    def read(self, clip: Clip, descriptions: list[tuple[str, ...]]) -> None:
        """Encode the descriptions of every class, in the classes' order. Raises DferError for more than S of one."""
        count = self.features.shape[1]
        for row, texts in enumerate(descriptions):
            if len(texts) > count:
                raise DferError(f"class {row + 1} has {len(texts)} texts; this model reads at most {count} of each")
            tokens = clip.tokenize([texts[index % len(texts)] for index in range(count)])
            end = tokens.argmax(dim=-1)  # the end-of-text token has the highest number
            self.features[row] = clip.text.encode(clip.text.embed(tokens), end)

    def forward(self, clip: Clip) -> Tensor:
        return self.features
