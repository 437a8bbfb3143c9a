"""The contrastive loss between the features of clips and of their captions, and the captions as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..models.clip import Clip


class CaptionTokens:
    """Captions as CLIP tokens, looked up by clip name.

    texts: clip name → its captions, at least one.
    cut: how many captions fill CLIP's whole context; longer ones are truncated to it.
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
        """Return the indices into `names` of the clips that have captions, and one random caption of each.

        Both int64 [K]; captions are numbers for `embed`, drawn with torch's generator.
        """
        places = [place for place, name in enumerate(names) if name in self._rows]
        rows = [self._rows[names[place]] for place in places]
        chosen = [one[int(torch.randint(len(one), ()))] for one in rows]
        return torch.tensor(places, dtype=torch.int64), torch.tensor(chosen, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def rows(self, name: str) -> range:
        """Return the numbers of a clip's captions; KeyError if it has none."""
        return self._rows[name]

    def embed(self, captions: Tensor, clip: Clip, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return embeddings [K,L,E] of captions, padded to the longest, and the end-of-text positions, int64 [K]."""
        ends = self._ends[captions]
        tokens = self._tokens[captions, : int(ends.max()) + 1]
        return clip.text.embed(tokens.to(device)), ends.to(device)


def contrast(video: Tensor, text: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Return the symmetric InfoNCE loss of K clips and one caption each; same-class pairs do not count as negatives.

    video, text: L2-normalised features [K,D] of clips and of their captions. labels: int64 [K], classes of the clips.
    scale: 1/τ. The loss is 0 if all clips are of one class. It is CLIP's loss (Radford et al. 2021, figure 3) with a
    mask (our choice: captions of one class are much alike).
    """
    with torch.autocast(video.device.type, enabled=False):  # scale is about 100: half precision would lose too much
        similarities = scale * video.float() @ text.float().T
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    masked = similarities.masked_fill((labels[:, None] == labels) & others, float("-inf"))
    own = torch.arange(len(labels), device=labels.device)
    return (functional.cross_entropy(masked, own) + functional.cross_entropy(masked.T, own)) / 2
