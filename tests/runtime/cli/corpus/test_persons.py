"""Tracks of a video's parts, joined to persons."""

from __future__ import annotations

from dfer.runtime.cli.corpus.persons import Part, Seen, join_tracks


def seen(frames: range, track: int, x: float) -> list[Seen]:
    return [Seen(frame, track, x + frame, 0.0, 50.0, 60.0) for frame in frames]


def test_a_face_keeps_its_person_over_cuts_and_newcomers_get_their_own() -> None:
    first = Part([], [1, 2], [*seen(range(80, 100), 1, 0), *seen(range(80, 100), 2, 300)])
    # Numbered the other way round behind the cut; one has left, one has come.
    second = Part(
        [*seen(range(80, 100), 1, 301), *seen(range(80, 100), 2, 1)],
        [1, 2, 3],
        [*seen(range(180, 200), 1, 301), *seen(range(180, 200), 3, 600)],
    )
    third = Part(seen(range(180, 200), 1, 600), [1], [])
    assert join_tracks([first, second, third]) == [
        *[(0, 1, 1), (0, 2, 2)],
        *[(1, 1, 2), (1, 2, 1), (1, 3, 3)],
        (2, 1, 3),
    ]


def test_two_tracks_never_become_one_person() -> None:
    first = Part([], [1], seen(range(80, 100), 1, 0))
    second = Part([*seen(range(80, 100), 1, 0), *seen(range(90, 100), 2, 5)], [1, 2], [])
    assert join_tracks([first, second]) == [(0, 1, 1), (1, 1, 1), (1, 2, 2)]
