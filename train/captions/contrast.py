"""The loss that brings a clip's feature and its caption's together, and the captions as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..models.clip import Clip


class CaptionTokens:
    """Captions as CLIP's tokens, of clips by their names.

    texts: a clip's name → its captions, one at least.
    cut: how many captions fill CLIP's context to the end, where longer ones are cut.
    """

    def __init__(self, clip: Clip, texts: Mapping[str, Sequence[str]]) -> None:
        self._tokens = clip.tokenize([text for some in texts.values() for text in some])
        self._ends = self._tokens.argmax(dim=-1)  # the end-of-text token has the highest number
        self.cut = int((self._ends == self._tokens.shape[1] - 1).sum())
        self._rows: dict[str, range] = {}
        start = 0
        for name, some in texts.items():
            self._rows[name] = range(start, start + len(some))
            start += len(some)

    def draw(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Of clips, those that have captions, as places in `names`, and a random one of the captions of each.

        Both int64 [K], captions as numbers for `embed`; random by torch's generator.
        """
        places = [place for place, name in enumerate(names) if name in self._rows]
        rows = [self._rows[names[place]] for place in places]
        chosen = [one[int(torch.randint(len(one), ()))] for one in rows]
        return torch.tensor(places, dtype=torch.int64), torch.tensor(chosen, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def rows(self, name: str) -> range:
        """The captions of a clip that has some, by number."""
        return self._rows[name]

    def embed(self, captions: Tensor, clip: Clip, device: torch.device) -> tuple[Tensor, Tensor]:
        """Embeddings [K,L,E] of captions, padded to the longest of them, and the place of each one's end, int64 [K]."""
        ends = self._ends[captions]
        tokens = self._tokens[captions, : int(ends.max()) + 1]
        return clip.text.embed(tokens.to(device)), ends.to(device)


def contrast(video: Tensor, text: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Symmetric InfoNCE, a scalar, of K clips and a caption of each; others of a clip's class are no negatives of it.

    video, text: features [K,D] of length 1, of clips and of their captions. labels: int64 [K], classes of the clips.
    scale: 1/τ. 0 where all are of one class. CLIP's loss (Radford et al. 2021, figure 3) with this mask (our choice:
    captions of one class are much alike).
    """
    with torch.autocast(video.device.type, enabled=False):  # times 100: half precision would show
        similarities = scale * video.float() @ text.float().T
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    masked = similarities.masked_fill((labels[:, None] == labels) & others, float("-inf"))
    own = torch.arange(len(labels), device=labels.device)
    return (functional.cross_entropy(masked, own) + functional.cross_entropy(masked.T, own)) / 2
