"""Classes across data: matched by name, by case and by meaning; what has no counterpart is counted."""

from __future__ import annotations

import numpy as np
import pytest
from clip_sets import NoiseClips

from dfer.runtime.errors import DferError
from dfer.runtime.labels import MAFW_EXPRESSIONS
from dfer.train.data.matching import match_classes


def clips(*shown: str, classes: tuple[str, ...] = ()) -> NoiseClips:
    found = NoiseClips(len(shown))
    found.classes = classes or tuple(dict.fromkeys(shown))
    found.labels = np.array([found.classes.index(name) for name in shown], np.int64)
    return found


def test_names_that_are_equal_come_first_then_case_then_meaning() -> None:
    matching = match_classes(clips("joy", "fear", "rage", "joy", "pain"), ("Fear", "happiness", "anger", "calm"))
    assert matching.counterparts == {"joy": "happiness", "fear": "Fear", "rage": "anger"}
    assert matching.labels.tolist() == [1, 0, 2, 1, -1]
    assert (matching.left_out, matching.unseen) == ({"pain": 1}, ("calm",))
    assert matching.report() == [
        "joy counts as happiness",
        "fear counts as Fear",
        "rage counts as anger",
        "left out: 1 clips of classes that the model does not have (pain 1)",
        "classes of the model that the data do not have: calm",
    ]


def test_a_model_of_names_with_accents_of_their_own_knows_them_composed() -> None:
    assert match_classes(clips("w\u00fctend"), ("ruhig", "wu\u0308tend")).labels.tolist() == [1]


def test_what_a_class_of_the_same_name_has_taken_is_no_counterpart() -> None:
    matching = match_classes(clips("happiness", "joy", "smile"), ("happiness", "sadness"))
    assert (matching.counterparts, matching.left_out) == ({"happiness": "happiness"}, {"joy": 1, "smile": 1})
    ambiguous = match_classes(clips("smile", "fear"), ("joy", "happiness", "fear"))
    assert ambiguous.left_out == {"smile": 1}


def test_the_four_further_classes_of_mafw_are_left_out_of_seven() -> None:
    shown = clips("fear", "contempt", "anxiety", "anxiety", classes=MAFW_EXPRESSIONS)
    matching = match_classes(shown, MAFW_EXPRESSIONS[:7])
    assert matching.left_out == {"contempt": 1, "anxiety": 2}
    assert matching.to_json() == {
        "counterparts": {},
        "no_counterpart": {"data": {"contempt": 1, "anxiety": 2}, "model": []},
    }


def test_data_without_any_counterpart_are_refused() -> None:
    with pytest.raises(DferError, match="show pain, yawn; the model knows fear, anger: none has a counterpart"):
        match_classes(clips("pain", "yawn"), ("fear", "anger"))
