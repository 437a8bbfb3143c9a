"""Tracks of a video's parts, joined to persons."""

from __future__ import annotations

from dfer.runtime.cli.corpus.persons import Seen, join_tracks


def seen(frames: range, track: int, x: float) -> list[Seen]:
    return [Seen(frame, track, x + frame, 0.0, 50.0, 60.0) for frame in frames]


def test_a_face_keeps_its_person_over_cuts_and_newcomers_get_their_own() -> None:
    first = ([], [*seen(range(0, 100), 1, 0), *seen(range(0, 100), 2, 300)])
    # Numbered the other way round behind the cut; one has left, one has come.
    second = (
        [*seen(range(80, 100), 1, 301), *seen(range(80, 100), 2, 1)],
        [*seen(range(100, 200), 1, 301), *seen(range(100, 200), 2, 1), *seen(range(150, 200), 3, 600)],
    )
    third = (seen(range(180, 200), 1, 600), seen(range(200, 250), 1, 600))
    assert join_tracks([first, second, third]) == [
        *[(0, 1, 1), (0, 2, 2)],
        *[(1, 1, 2), (1, 2, 1), (1, 3, 3)],
        (2, 1, 3),
    ]


def test_two_tracks_never_become_one_person() -> None:
    first = ([], seen(range(100), 1, 0))
    second = (
        [*seen(range(80, 100), 1, 0), *seen(range(90, 100), 2, 5)],
        [*seen(range(100, 120), 1, 0), *seen(range(100, 120), 2, 5)],
    )
    assert join_tracks([first, second]) == [(0, 1, 1), (1, 1, 1), (1, 2, 2)]
