"""Filmed encounters with known truth: procedural people who cross, hide and turn back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from dfer.runtime.faces.detection import FaceDetector
from dfer.runtime.faces.tracking import Tracker
from dfer.runtime.procedural import Identity, draw_background, draw_face
from dfer.runtime.procedural.expressions import ExpressionCurve

SIZE, RATE = (360, 640), 25
LABELS = ("happiness", "sadness", "anger", "surprise", "disgust", "fear", "neutral")


class Person:
    """Walks along `path`, (second, x) pairs, at one level, while the face shows one expression after the other."""

    def __init__(self, seed: list[int], height: float, level: float, path: list[tuple[float, float]]) -> None:
        rng = np.random.default_rng(seed)
        self.identity, self.height, self.level, self.path = Identity.sample(rng), height, level, path
        self.curves = [ExpressionCurve.sample(str(rng.choice(LABELS)), 2.0, rng) for _ in range(3)]

    def x(self, t: float) -> float:
        return float(np.interp(t, *zip(*self.path, strict=True)))

    def draw(self, image: np.ndarray, t: float) -> np.ndarray:
        units, pose = self.curves[int(t // 2)].at(t % 2)
        return draw_face(image, self.identity, units, pose, (self.x(t), self.level), self.height)


@dataclass(frozen=True)
class Scene:
    """People, the farthest first, and a pillar (left, right) in front of the first of them."""

    people: list[Person]
    seconds: float
    pillar: tuple[float, float] | None = None

    def film(self, seed: int) -> Iterator[tuple[np.ndarray, float, list[np.ndarray]]]:
        """Pictures, their times, and each person's landmarks."""
        room = draw_background(Identity.sample(np.random.default_rng(seed)), *SIZE)
        for index in range(round(self.seconds * RATE)):
            t = index / RATE
            image, truth = room.copy(), []
            for number, person in enumerate(self.people):
                truth.append(person.draw(image, t))
                if number == 0 and self.pillar:
                    left, right = (round(x) for x in self.pillar)
                    cv2.rectangle(image, (left, 0), (right, SIZE[0]), (120, 115, 105), cv2.FILLED)
            yield image, t, truth

    def hidden(self, number: int, t: float) -> bool:
        """Whether (half) a face is behind something."""
        person = self.people[number]
        behind = any(abs(person.x(t) - one.x(t)) < 0.32 * one.height for one in self.people[number + 1 :])
        pillar = self.pillar is not None and number == 0
        return behind or (pillar and self.pillar is not None and self.pillar[0] < person.x(t) < self.pillar[1])


def crossing(seed: int) -> Scene:
    """Two people walk past each other; with an odd seed a third stands behind them."""
    rng = np.random.default_rng(seed)
    people = [
        Person([seed, 1], rng.uniform(90, 110), 170 + rng.uniform(-15, 15), [(0, 590), (3.2, 60)]),
        Person([seed, 2], rng.uniform(115, 135), 185, [(0, 60), (1.2, 260), (3.2, 590)]),
    ]
    if seed % 2:
        people.insert(0, Person([seed, 3], 80, 150, [(0, 320), (3.2, 330 + rng.uniform(-40, 40))]))
    return Scene(people, 3.2)


def turning_back(seed: int) -> Scene:
    """Two people meet, one half in front of the other, and go back where they came from."""
    rng = np.random.default_rng([seed, 100])
    still = 1.4 + rng.uniform(0, 0.5)
    return Scene(
        [
            Person([seed, 11], rng.uniform(95, 115), 175, [(0, 500), (1.4, 310), (still, 310), (3.2, 510)]),
            Person([seed, 12], rng.uniform(105, 125), 185, [(0, 140), (1.4, 300), (still, 310), (3.2, 110)]),
        ],
        3.2,
    )


def hiding(seed: int) -> Scene:
    """One person walks behind a pillar, which hides the middle of the face for a second; another stands aside."""
    rng = np.random.default_rng(seed)
    speed, height = rng.uniform(90, 150), rng.uniform(90, 125)
    start = 80 + 0.75 * height
    walker = Person([seed, 1], height, 180, [(0, 80), (6, 80 + 6 * speed)])
    witness = Person([seed, 2], 80, 130, [(0, 590), (6, 600)])
    return Scene([walker, witness], min(5.0, 420 / speed), (start, start + speed))


def follow(scene: Scene, seed: int, detector: FaceDetector, tracker: Tracker, every: int = 3) -> list[list[int]]:
    """Per person the ids they had, frame by frame, while they could be seen; a track is the nearest person's."""
    ids: list[list[int]] = [[] for _ in scene.people]
    for index, (image, time, truth) in enumerate(scene.film(seed)):
        detected = index % every == 0
        tracks = tracker.update(detector.detect(image), time, image) if detected else tracker.carry(image, time)
        centres = np.array([points.mean(axis=0) for points in truth])
        for track in tracks:
            apart = np.linalg.norm(centres - track.face.landmarks.mean(axis=0), axis=1)
            person = int(apart.argmin())
            if apart[person] < 0.35 * scene.people[person].height and not scene.hidden(person, time):
                ids[person].append(track.id)
    return ids
