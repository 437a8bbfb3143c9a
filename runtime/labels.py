"""The names and order of the expression classes, shared by training, export and serving."""

EXPRESSIONS: tuple[str, ...] = (
    "happiness",
    "sadness",
    "neutral",
    "anger",
    "surprise",
    "disgust",
    "fear",
)
"""Seven classes in DFER-CLIP's order; a class's index is its place here. Other data is mapped by name."""

MAFW_EXPRESSIONS: tuple[str, ...] = (*EXPRESSIONS, "contempt", "anxiety", "helplessness", "disappointment")
"""The eleven classes of MAFW, in DFER-CLIP's order."""
