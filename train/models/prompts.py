"""DFER-CLIP's prompts: learned context tokens followed by a description of each class's face."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...runtime.errors import DferError
from .clip import Clip


class DescribedPrompts(nn.Module):
    """For each class: SOS, M learned context tokens, the words of its description, EOS.

    Only the contexts are learned, [C,M,E] (one for each class) or [M,E] (shared). The embeddings of the fixed tokens
    are buffers, so a checkpoint needs neither tokenizer nor descriptions. The text transformer is causal: tokens after
    EOS have no effect, so sentences are padded only to the longest of them.
    DFER-CLIP (BMVC 2023), section on learnable prompts; initialisation N(0, 0.02) as in its code.

    length: tokens of the longest description, including EOS. width: E, of token embeddings.
    """

    def __init__(self, classes: int, length: int, width: int, contexts: int = 8, class_specific: bool = True) -> None:
        super().__init__()
        shape = (classes, contexts, width) if class_specific else (contexts, width)
        self.context = nn.Parameter(torch.randn(shape) * 0.02)
        self.start: Tensor
        self.description: Tensor
        self.end: Tensor
        self.register_buffer("start", torch.zeros(classes, 1, width))
        self.register_buffer("description", torch.zeros(classes, length, width))
        self.register_buffer("end", torch.zeros(classes, dtype=torch.int64))  # position of EOS in each prompt

    @classmethod
    def from_sentences(
        cls, clip: Clip, sentences: Sequence[str], contexts: int = 8, class_specific: bool = True
    ) -> DescribedPrompts:
        """Build prompts from one sentence per class, with `clip`'s current embeddings.

        Raises DferError if contexts and a sentence do not fit into CLIP's context.
        """
        tokens = clip.tokenize(list(sentences))[:, 1:]
        ends = tokens.argmax(dim=-1)  # the end-of-text token has the highest number
        longest = int(ends.max()) + 1
        room = int(clip.text.model.positional_embedding.shape[0]) - 1 - contexts
        if contexts < 1:
            raise DferError(f"{contexts} context tokens: a prompt needs at least one, since they are what is learned")
        if longest > room:
            raise DferError(
                f"description {sentences[int(ends.argmax())]!r} has {longest} tokens; beside {contexts} context tokens "
                f"this CLIP has room for {room}"
            )
        prompts = cls(len(sentences), longest, clip.text.width, contexts, class_specific)
        with torch.no_grad():
            prompts.start.copy_(clip.text.embed(clip.tokenize([""])[:, :1]))
            prompts.description.copy_(clip.text.embed(tokens[:, :longest]))
        prompts.end.copy_(1 + contexts + ends)
        return prompts

    @property
    def classes(self) -> int:
        """C."""
        return len(self.end)

    def config(self) -> dict[str, int | bool]:
        """Return the arguments that rebuild these prompts without their values."""
        classes, length, width = self.description.shape
        contexts, class_specific = self.context.shape[-2], self.context.ndim == 3
        return {
            "classes": classes,
            "length": length,
            "width": width,
            "contexts": contexts,
            "class_specific": class_specific,
        }

    def forward(self, clip: Clip) -> Tensor:
        """Return class features float32 [C,D] from `clip`'s text encoder, not normalised."""
        context = self.context.expand(self.classes, -1, -1)
        return clip.text.encode(torch.cat([self.start, context, self.description], dim=1), self.end)


def mean_of_units(features: Tensor, counts: Sequence[int]) -> Tensor:
    """Return class features [C,D] from text features [N,D], of which each class has the next `counts`: the mean of the
    L2-normalised features, not normalised again."""
    units = functional.normalize(features, dim=-1)
    return torch.stack([part.mean(dim=0) for part in units.split(list(counts))])
