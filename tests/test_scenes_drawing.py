"""Pictures show what the scene holds, where it says, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from vlprobe.images import open_image
from vlprobe.scenes.drawing import COLOUR_VALUES, DISTANCES, NOISE, TINT, draw, encoded
from vlprobe.scenes.scene import COLOURS, SHAPES, Thing, sample

SCENES = [sample(1, "look", number) for number in range(60)]


def without(scene, i):
    return replace(scene, things=scene.things[:i] + scene.things[i + 1 :])


def only(scene, i):
    return replace(scene, things=(scene.things[i],))


def differs(one, other):
    """Return (side, side) bool: where two pictures with the same noise are not the same."""
    return (one != other).any(axis=2)


@pytest.mark.parametrize("side", [48, 96, 240])
def test_a_thing_changes_the_picture_in_its_box_and_nowhere_else(side):
    for scene in SCENES[:30]:
        whole = draw(scene, side)
        for i, one in enumerate(scene.things):
            rows, columns = np.nonzero(differs(whole, draw(without(scene, i), side)))
            x1, y1, x2, y2 = (value * side for value in one.box)
            assert columns.min() + 1 > x1 - 1 and columns.max() < x2 + 1
            assert rows.min() + 1 > y1 - 1 and rows.max() < y2 + 1


def test_a_thing_fills_its_box():
    """Whatever its shape, it reaches at least two thirds of the way to each side: boxes are not too large."""
    for scene in SCENES:
        for i, one in enumerate(scene.things):
            rows, columns = np.nonzero(differs(draw(only(scene, i), 200), draw(replace(scene, things=()), 200)))
            reach = np.array([one.x * 200 - columns.min(), columns.max() - one.x * 200])
            assert (reach > one.radius * 200 * 0.66).all()
            assert max(one.y * 200 - rows.min(), rows.max() - one.y * 200) > one.radius * 200 * 0.66


def test_no_thing_is_hidden():
    for scene in SCENES:
        paper, whole = draw(replace(scene, things=())), draw(scene)
        for i in range(len(scene.things)):
            alone = draw(only(scene, i))
            own = differs(alone, paper)
            assert (own & ~differs(alone, whole)).sum() > 0.6 * own.sum()


def test_a_things_pixels_have_the_colour_of_its_name():
    values = np.array([COLOUR_VALUES[name] for name in COLOURS]) * 255
    for scene in SCENES:
        for i, one in enumerate(scene.things):
            shown = draw(only(scene, i), 240)
            inside = shown[middle(one, 240)].astype(float)
            nearest = COLOURS[np.linalg.norm(values - inside.mean(axis=0), axis=1).argmin()]
            assert nearest == one.colour


def middle(one, side):
    """Return (side, side) bool: well inside the thing, away from its outline."""
    at = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid((at - one.x) / one.radius, (at - one.y) / one.radius)
    distance = DISTANCES[one.shape](x, y)
    return distance < 0.6 * distance.min()


def test_colours_are_told_apart_whatever_their_tint():
    values = [np.array(COLOUR_VALUES[name]) for name in COLOURS]
    for i, one in enumerate(values):
        for other in values[:i]:
            assert np.abs(one - other).max() > 2 * TINT + 6 * NOISE


def test_shapes_are_told_apart():
    """Of the pixels that either of two shapes covers, a tenth at least is covered by one alone."""
    grid = np.meshgrid(np.linspace(-1, 1, 201), np.linspace(-1, 1, 201))
    covers = {shape: DISTANCES[shape](*grid) < 0 for shape in SHAPES}
    assert set(DISTANCES) == set(SHAPES)
    for one in SHAPES:
        for other in SHAPES:
            if one != other:
                assert (covers[one] ^ covers[other]).sum() > 0.1 * (covers[one] | covers[other]).sum()


@pytest.mark.parametrize(
    ("shape", "inside", "outside"),
    [
        ("circle", [(0, 0), (0.7, 0.7)], [(0.75, 0.75)]),
        ("ring", [(0.72, 0), (0, -0.72)], [(0, 0), (0.3, 0.2), (0.75, 0.75)]),
        ("square", [(0, 0), (0.8, 0.8), (-0.8, 0.8)], [(0.95, 0)]),
        ("cross", [(0, 0), (0.9, 0.2), (-0.2, 0.9)], [(0.5, 0.5), (-0.8, 0.6)]),
        ("triangle", [(0, 0), (0, -0.8), (0.7, 0.7)], [(0.6, -0.6), (0, 0.95)]),
        ("star", [(0, 0), (0, -0.9), (0.5, 0.7), (-0.85, -0.25)], [(0, 0.7), (0.5, -0.7)]),
        ("heart", [(0, 0), (0.46, -0.6), (-0.46, -0.6), (0, 0.8)], [(0, -0.85), (0.7, 0.7)]),
    ],
)
def test_shapes_look_as_they_are_called(shape, inside, outside):
    """`y` grows downwards: a triangle stands on its floor, a star on two of its points, a heart on its tip."""
    for points, sign in ((inside, -1), (outside, 1)):
        x, y = np.array(points, dtype=np.float64).T
        assert (np.sign(DISTANCES[shape](x, y)) == sign).all()


def test_later_things_lie_on_top():
    below = Thing("square", "red", "large", 0.5, 0.5, 0.15, (0, 0, 0))
    above = Thing("square", "blue", "large", 0.5, 0.5, 0.15, (0, 0, 0))
    red, green, blue = draw(replace(SCENES[0], things=(below, above)))[48, 48].astype(int)
    assert blue > red + 100


def test_a_scene_looks_the_same_at_any_size():
    for scene in SCENES[:10]:
        large, small = draw(scene, 192).astype(float), draw(scene, 96).astype(float)
        assert np.abs(large.reshape(96, 2, 96, 2, 3).mean(axis=(1, 3)) - small).mean() < 6


def test_files_hold_the_very_pixels():
    for scene in SCENES[:10]:
        assert (np.asarray(open_image(encoded(scene))) == draw(scene)).all()
    assert encoded(SCENES[0]) == encoded(SCENES[0])
    for side in (40, 240):  # a large picture's file has more than one stored block
        assert (np.asarray(open_image(encoded(SCENES[0], side))) == draw(SCENES[0], side)).all()


def test_papers_do_not_tell_the_things():
    assert (draw(replace(SCENES[0], things=())) != draw(replace(SCENES[1], things=()))).any()
    for scene in SCENES:
        paper = draw(replace(scene, things=())).astype(float) / 255
        assert np.abs(paper - np.array(scene.ground)).max() < 0.035 + 6 * NOISE + 1 / 255
        assert 0.6 < paper.mean() < 0.92
