"""People as skeletons, by OpenPose's networks (`engine/annotators/openpose.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdwebui_api.control.poses import parts
from sdwebui_api.control.poses.body import find_people
from sdwebui_api.control.poses.drawing import draw_people
from sdwebui_api.control.poses.maps import Network, body_maps, face_maps, hand_maps
from sdwebui_api.control.poses.people import Person, Points, pose_json
from sdwebui_api.control.preprocessor import Preprocessor, PreprocessorResult
from sdwebui_api.control.preprocessors.sizes import as_rgb, resize_padded
from sdwebui_api.control.weights import WeightFile, network
from sdwebui_api.errors import UnusableModel

if TYPE_CHECKING:
    from pathlib import Path

    from sdwebui_api.control.preprocessor import Picture, PreprocessorContext

FOLDER = "openpose"
BODY = WeightFile(FOLDER, "body_pose_model.pth", "lllyasviel/Annotators")
HAND = WeightFile(FOLDER, "hand_pose_model.pth", "lllyasviel/Annotators")
FACE = WeightFile(FOLDER, "facenet.pth", "lllyasviel/Annotators")


def drawn(people: list[Person], looked_for: list[Person], width: int, height: int) -> PreprocessorResult:
    """people: what is painted. looked_for: what the JSON tells."""
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    draw_people(canvas, people)
    return PreprocessorResult(canvas, poses=[pose_json(looked_for, (), width, height)])


@dataclass(frozen=True)
class OpenPose:
    """One of the preprocessors: what it looks for and what it draws."""

    name: str
    body: bool = True
    hands: bool = False
    face: bool = False

    def __call__(
        self, image: Picture, *, resolution: int, context: PreprocessorContext, **_: Any
    ) -> PreprocessorResult:
        padded, unpad = resize_padded(as_rgb(image), resolution)
        height, width = unpad(padded).shape[:2]
        wanted = {"body": BODY, "hand": HAND if self.hands else None, "face": FACE if self.face else None}
        paths = {kind: file.find(context, self.name) for kind, file in wanted.items() if file is not None}
        with ExitStack() as stack:
            networks = {kind: stack.enter_context(_maps_of(context, path, kind)) for kind, path in paths.items()}
            people = [Person(body) for body in find_people(body_maps(padded, networks["body"]))]
            people = [_completed(person, padded, networks) for person in people]
        shown = [person.only(body=self.body, hands=self.hands, face=self.face) for person in people]
        return drawn(shown, people, width, height)


@contextmanager
def _maps_of(context: PreprocessorContext, path: Path, kind: str) -> Iterator[Network]:
    """The network in `path`. Raises UnusableModel when it is for something else."""
    from sdwebui_api.engine.annotators.openpose import PoseNetwork, load_pose_network

    with network(context, path, load_pose_network, PoseNetwork) as found:
        if found.kind != kind:
            raise UnusableModel(f"{path.name} is a network for the points of a {found.kind}, not of a {kind}")
        yield found.maps


def _completed(person: Person, image: Picture, networks: dict[str, Network]) -> Person:
    """With the points of hands and face, when there are networks for them."""
    height, width = image.shape[:2]
    if "hand" in networks:
        boxes = (find(person.body, width, height) for find in (parts.left_hand_box, parts.right_hand_box))
        left, right = (() if box is None else _hand(image, box, networks["hand"]) for box in boxes)
        person = replace(person, left_hand=left, right_hand=right)
    box = parts.face_box(person.body, width, height) if "face" in networks else None
    if box is not None:
        found = parts.face_points(face_maps(parts.crop(image, box), networks["face"]))
        person = replace(person, face=parts.moved(found, box))
    return person


def _hand(image: Picture, box: parts.Box, maps: Network) -> Points:
    cut = parts.crop(image, box)
    return parts.moved(parts.hand_points(hand_maps(cut, maps), cut.shape[1], cut.shape[0]), box)


def _preprocessor(run: OpenPose, priority: int = 0, aliases: tuple[str, ...] = ()) -> Preprocessor:
    return Preprocessor(run.name, run.name, run, tags=("OpenPose",), sort_priority=priority, aliases=aliases)


PREPROCESSORS = (
    _preprocessor(OpenPose("openpose_full", hands=True, face=True), 100),
    _preprocessor(OpenPose("openpose_hand", hands=True)),
    _preprocessor(OpenPose("openpose_faceonly", body=False, face=True)),
    _preprocessor(OpenPose("openpose_face", face=True)),
    _preprocessor(OpenPose("openpose")),
)
