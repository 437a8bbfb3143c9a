"""What each expression looks like, in words: the text side of pre-training."""

from __future__ import annotations

DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "happiness": (
        "a happy face: the mouth corners are drawn up, the cheeks are raised and the eyes narrow",
        "a person who smiles broadly and shows the teeth",
        "a cheerful, laughing face",
    ),
    "sadness": (
        "a sad face: the inner brows are raised, the mouth corners hang down and the chin is pushed up",
        "a person close to tears with drooping lids",
        "a sorrowful, crying face",
    ),
    "neutral": (
        "a neutral face: brows, lids and lips are at rest",
        "a person with a calm face and a closed, relaxed mouth",
        "a face that shows no expression",
    ),
    "anger": (
        "an angry face: the brows are lowered and drawn together, the eyes glare and the lips are pressed",
        "a person who frowns with tightened lids and a clenched jaw",
        "a furious, shouting face",
    ),
    "surprise": (
        "a surprised face: the brows are raised high, the eyes are wide open and the jaw has dropped",
        "a person who gapes with an open mouth",
        "an astonished, startled face",
    ),
    "disgust": (
        "a disgusted face: the nose is wrinkled and the upper lip is raised",
        "a person who grimaces as if at a bad smell",
        "a face full of aversion",
    ),
    "fear": (
        "a fearful face: the brows are raised and drawn together, the eyes are wide and the lips stretched",
        "a person who is terrified and shrinks back",
        "a frightened, anxious face",
    ),
}
"""Sentences per class, our own wording after the facial action units commonly given for each expression."""
