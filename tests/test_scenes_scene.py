"""Scenes: the same for a seed, and no fact of a thing tells another."""

import os
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest

from vlprobe.digest import digest
from vlprobe.scenes import scene as world
from vlprobe.scenes.scene import COLOURS, EDGE, PAPERS, RADIUS, SHAPES, SIZES, sample

SCENES = [sample(0, "look", number) for number in range(1500)]


def facts(scene):
    """Return everything about a scene but the paper's, as what JSON can hold."""
    return [[one.shape, one.colour, one.size, round(one.x, 9), round(one.y, 9)] for one in scene.things]


def test_a_seed_gives_the_world_it_always_gave():
    # Published numbers rest on it. Where this changes on purpose, CHANGELOG.md says that scenes have changed.
    assert (
        digest(*(facts(scene) for scene in SCENES[:200]))
        == "1b9faf812ebb1ee61bf686d17678526380fe4eb8b8b06ac36168454960a80ec8"
    )


def test_a_scene_does_not_depend_on_what_was_asked_before_it():
    assert sample(0, "look", 17) == SCENES[17]


def test_every_process_draws_the_same():
    code = "from vlprobe.scenes.scene import sample; print([sample(3, 'w', n) for n in range(20)])"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{[sample(3, 'w', number) for number in range(20)]}\n".encode()}


def test_worlds_and_seeds_share_no_scene():
    drawn = [sample(seed, name, number) for seed in (0, 1) for name in ("look", "else") for number in range(100)]
    assert len({scene.things for scene in drawn}) == len({scene.grain for scene in drawn}) == len(drawn)


def test_names_are_unique_in_a_world():
    assert len({scene.name for scene in SCENES}) == len(SCENES)


def test_things_stand_on_the_paper_and_apart():
    for scene in SCENES:
        for one in scene.things:
            assert min(one.box) > 0 and max(one.box) < 1
            assert RADIUS[one.size][0] <= one.radius <= RADIUS[one.size][1]
        for one, other in combinations(scene.things, 2):
            assert max(abs(one.x - other.x), abs(one.y - other.y)) >= 0.23


def test_two_things_can_be_called_by_their_shape():
    for scene in SCENES:
        shapes = Counter(one.shape for one in scene.things)
        once = [i for i, one in enumerate(scene.things) if shapes[one.shape] == 1]
        assert list(scene.alone()) == once
        assert len(once) >= 2


@pytest.mark.parametrize(
    ("values", "of"),
    [
        (range(2, 7), lambda scene: [len(scene.things)]),
        (PAPERS, lambda scene: [scene.paper]),
        (COLOURS, lambda scene: [one.colour for one in scene.things]),
        (SHAPES, lambda scene: [one.shape for one in scene.things]),
        (SIZES, lambda scene: [one.size for one in scene.things]),
    ],
    ids=["count", "paper", "colour", "shape", "size"],
)
def test_all_values_are_equally_frequent(values, of):
    found = Counter(value for scene in SCENES for value in of(scene))
    total, share = found.total(), 1 / len(values)
    assert set(found) == set(values)
    for value in values:
        assert abs(found[value] / total - share) < 4 * (share * (1 - share) / total) ** 0.5, value


def test_nothing_depends_on_how_large_large_things_are(monkeypatch):
    # Else a caption that speaks of a place would speak of large things more often than of small ones.
    monkeypatch.setattr(world, "RADIUS", {"small": (0.01, 0.02), "large": (0.3, 0.4)})
    assert [facts(sample(0, "look", number)) for number in range(200)] == [facts(scene) for scene in SCENES[:200]]


def test_large_and_small_differ_at_a_glance():
    assert RADIUS["large"][0] > 1.4 * RADIUS["small"][1]
    assert RADIUS["large"][1] < EDGE
