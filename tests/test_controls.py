"""Controls against independent referees: they find what words and pixels tell, and nothing where nothing is."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.pipeline import make_pipeline

from toys import COLOURS, colour_task, png
from vlprobe.controls.control_task import control_task
from vlprobe.controls.pixels import SIDE, Looks, quarters
from vlprobe.controls.rows import rows_of
from vlprobe.controls.words import DAMPINGS, STRENGTHS, probe_words, words_of
from vlprobe.probes.linear import Logistic, probe_sets
from vlprobe.splits import cut
from vlprobe.statistics import score
from vlprobe.tasks import load_task
from vlprobe.types import SPLITS, Example, Task

SIZES = {"train": 300, "validation": 100, "test": 200}


def parts_of(task, seed=0):
    return {name: rows_of(examples) for name, examples in cut(task, seed).named().items()}


def answered(rows, whole, grams, metric="accuracy", labels=None):
    """Return what the control on words answers, and the targets of the test part."""
    words = tuple(words_of(rows[name], whole, grams) for name in SPLITS)
    y = [rows[name].features().y for name in SPLITS]
    labels = labels or (y[0], y[1])
    return probe_words(words, labels, metric), y[2]


class Damped(TransformerMixin, BaseEstimator):
    """Divides each column by a power of its root mean square, on dense counts."""

    def __init__(self, power):
        self.power = power

    def fit(self, X, y=None):
        self.size_ = np.sqrt(np.mean(np.square(X.toarray()), axis=0))
        return self

    def transform(self, X):
        return X.toarray() / self.size_**self.power


@pytest.mark.parametrize("grams", [1, 2])
@pytest.mark.parametrize("name", ["size", "color", "object-count"])
def test_words_are_counted_as_a_pipeline_of_scikit_learn_does(name, grams):
    task = load_task({"name": name, "scenes": {"train": 300, "test": 150, "tell": 0.6}})
    found, y = answered(parts_of(task), True, grams, "accuracy" if task.classes else "r2")
    parts = cut(task, 0).named()
    texts = {part: [example.text for example in examples] for part, examples in parts.items()}
    target = {
        part: np.array([t for e in examples for t in e.target if t is not None]) for part, examples in parts.items()
    }

    def pipeline(power, l2, count):
        counts = CountVectorizer(token_pattern=r"\[mask\]|\w+|[^\w\s]", ngram_range=(1, grams))
        line = LogisticRegression(C=1 / (l2 * count), max_iter=5000) if task.classes else Ridge(alpha=l2 * count)
        return make_pipeline(counts, Damped(power), line)

    tried = [(power, l2) for power in DAMPINGS for l2 in STRENGTHS]
    train, held_out = (texts[part] for part in ("train", "validation"))
    fitted = [pipeline(*each, len(train)).fit(train, target["train"]) for each in tried]
    if task.classes:
        losses = [log_loss(target["validation"], each.predict_proba(held_out), labels=task.classes) for each in fitted]
    else:
        losses = [mean_squared_error(target["validation"], each.predict(held_out)) for each in fitted]
    scores = [each.score(held_out, target["validation"]) for each in fitted]
    first, second = np.reshape(losses, (len(DAMPINGS), -1)).argmin(axis=1) + [0, len(STRENGTHS)]
    at, other = (first, second) if losses[first] <= losses[second] else (second, first)
    if task.classes:  # the other damping, where it is surely better
        right = [fitted[each].predict(held_out) == target["validation"] for each in (other, at)]
        better, worse = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        gain = (better - worse) / len(right[0])
        at = other if gain > 2 * np.sqrt(((better + worse) / len(right[0]) - gain**2) / len(right[0])) else at
    best, reached = tried[at], scores[at]
    assert (found.l2, found.validation) == (best[1], pytest.approx(reached, abs=0.02 if task.classes else 1e-3))
    both, known = train + held_out, np.concatenate([target["train"], target["validation"]])
    referee = pipeline(*best, len(both)).fit(both, known).predict(texts["test"])
    if task.classes:
        assert (found.predicted == referee).mean() > 0.98
        assert score(y, found.predicted, "accuracy") > {"size": 0.7, "color": 0.3}[name]  # so much the text gives away
    else:
        np.testing.assert_allclose(found.predicted, referee, atol=1e-2)
        assert score(y, found.predicted, "r2") > 0.3


def test_a_word_of_test_that_train_lacks_counts_for_nothing():
    words = [["a"], ["b"]] * 20
    labels = np.array(["x", "y"] * 20)
    found = probe_words((words, words, [["a", "new"], ["new"], ["b", "new", "new"]]), (labels, labels), "accuracy")
    alone = probe_words((words, words, [["a"], [], ["b"]]), (labels, labels), "accuracy")
    assert found.predicted.tolist() == alone.predicted.tolist()
    assert found.predicted[[0, 2]].tolist() == ["x", "y"]


def test_the_vocabulary_is_that_of_the_rows_that_are_fitted_on(monkeypatch):
    fitted = []
    plain = CountVectorizer.fit_transform
    monkeypatch.setattr(
        CountVectorizer, "fit_transform", lambda self, rows: (fitted.append(list(rows)), plain(self, fitted[-1]))[1]
    )
    train, validation, test = ([[f"{part}{i}", "x"] for i in range(6)] for part in ("train", "validation", "test"))
    labels = np.array(["p", "q"] * 3)
    probe_words((train, validation, test), (labels, labels), "accuracy")
    assert fitted == [train, train, train + validation]  # as they are, damped, and the final one


def test_of_a_word_its_form_is_known_and_for_n_grams_its_neighbours():
    example = Example("e", "g", "The dog barks", None, ("D", "N", None), ((0, 3), (4, 7), (8, 13)))
    rows = rows_of([example])
    assert words_of(rows, False, 1) == [["the"], ["dog"]]
    assert words_of(rows, False, 2)[1] == ["dog", "the <", "> barks", "the dog <", "> dog barks"]
    assert words_of(rows, False, 2)[0][1:] == [" <", "> dog", " the <", "> the dog"]
    assert words_of(rows_of([replace(example, target=("A",), text="Dogs, [MASK] it's")]), True, 2) == [
        ["dogs", ",", "[mask]", "it", "'", "s", "dogs ,", ", [mask]", "[mask] it", "it '", "' s"]
    ]


def test_the_form_of_a_word_tells_what_a_lookup_table_tells():
    rows = parts_of(load_task({"name": "pos-tagging", "scenes": {"train": 200, "test": 100}}))
    found, y = answered(rows, False, 1)
    table: dict[str, Counter] = {}
    for part in ("train", "validation"):
        for (form,), label in zip(words_of(rows[part], False, 1), rows[part].features().y, strict=True):
            table.setdefault(form, Counter())[label] += 1
    looked_up = [
        table[form].most_common(1)[0][0] if form in table else "" for (form,) in words_of(rows["test"], False, 1)
    ]
    assert (found.predicted == np.array(looked_up)).mean() > 0.98
    assert score(y, found.predicted, "accuracy") > 0.85  # the most frequent tag: 0.23


@pytest.mark.parametrize(("whole", "grams"), [(True, 1), (True, 2), (False, 1), (False, 2)])
def test_words_tell_nothing_of_labels_of_chance(whole, grams):
    task = load_task({"name": "pos-tagging", "scenes": {"train": 150, "test": 150}})
    rng, scores = np.random.default_rng(0), []
    rows = parts_of(task)
    for _ in range(3):
        y = [rng.choice(["a", "b"], len(rows[name])) for name in SPLITS]
        found, _ = answered(rows, whole, grams, labels=(y[0], y[1]))
        scores.append(score(y[2], found.predicted, "accuracy"))
    assert np.mean(scores) == pytest.approx(0.5, abs=0.03)


def test_a_fit_on_words_that_stops_early_is_told(monkeypatch):
    monkeypatch.setattr("vlprobe.controls.words.ITERATIONS", 1)
    labels = np.array(["x", "y", "z"] * 10)
    words = [[f"w{i % 7}", f"v{i % 5}"] for i in range(30)]
    found = probe_words((words, words, words), (labels, labels), "accuracy")
    assert any("stopped after 1 iterations" in line for line in found.warnings)


def looked(rows, looks, regions=False):
    return tuple(looks.of(rows[name], regions) for name in SPLITS)


def test_pixels_find_a_planted_colour():
    task = colour_task()
    rows, looks = parts_of(task), Looks()
    y = [rows[name].features().y for name in SPLITS]
    (found,) = probe_sets(Logistic, looked(rows, looks), [(y[0], y[1])])
    assert score(y[2], found.predicted, "accuracy") > 0.97
    rng, scores = np.random.default_rng(0), []
    for _ in range(5):
        chance = [rng.permutation(each) for each in y]
        (none,) = probe_sets(Logistic, looked(rows, looks), [(chance[0], chance[1])])
        scores.append(score(chance[2], none.predicted, "accuracy"))
    assert np.mean(scores) == pytest.approx(0.25, abs=0.06)


def test_a_look_is_a_thumbnail_and_the_shares_of_colours():
    left, right = (255, 0, 0), (0, 0, 255)
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:] = left, right
    example = Example("e", "g", None, png_of(pixels), ("a",), (), ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)))
    look = Looks()(example)
    thumbnail, colours = look[: SIDE * SIDE * 3].reshape(SIDE, SIDE, 3), look[SIDE * SIDE * 3 :]
    np.testing.assert_allclose(thumbnail[:, : SIDE // 2], np.broadcast_to([1, 0, 0], (SIDE, SIDE // 2, 3)), atol=1e-6)
    np.testing.assert_allclose(thumbnail[:, SIDE // 2 :], np.broadcast_to([0, 0, 1], (SIDE, SIDE // 2, 3)), atol=1e-6)
    assert (colours.sum(), colours[3 * 16], colours[3]) == (1, 0.5, 0.5)


def test_of_a_region_only_the_region_is_seen():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:] = (255, 0, 0), (0, 0, 255)
    boxes = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.999, 0.999, 1.0, 1.0))
    rows = rows_of([Example("e", "g", None, png_of(pixels), ("a", "b", "c"), (), boxes)])
    first, second, least = Looks().of(rows, True)[:, : SIDE * SIDE * 3].reshape(3, -1, 3)
    assert (first == [1, 0, 0]).all() and (second == [0, 0, 1]).all() and (least == [0, 0, 1]).all()


def test_quarters_say_where_an_image_is_brighter():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, 8:] = 200
    assert quarters(Looks()(Example("e", "g", None, png_of(pixels), ("a",)))) == "0100"
    assert quarters(Looks()(Example("e", "g", None, png(COLOURS["red"]), ("a",)))) == "0000"


def png_of(pixels):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def drawn(task, seed=0):
    parts = cut(task, seed)
    return control_task(task, parts, seed, Looks()), parts


def tagged(count=120, seed=0):
    """Return a task of words: 40 forms, of many more tokens, with three tags of shares 0.6, 0.3 and 0.1."""
    rng, examples = np.random.default_rng(seed), []
    tags = dict(zip((f"w{i}" for i in range(40)), rng.choice(["A", "B", "C"], 40, p=[0.6, 0.3, 0.1]), strict=True))
    for i in range(count):
        forms = rng.choice(list(tags), 6)
        text = " ".join(str(form).upper() if rng.random() < 0.3 else str(form) for form in forms)
        starts = np.cumsum([0, *(len(form) + 1 for form in forms[:-1])])
        spans = tuple((int(s), int(s) + len(form)) for s, form in zip(starts, forms, strict=True))
        examples.append(Example(f"e{i}", f"g{i}", text, None, tuple(str(tags[form]) for form in forms), spans))
    return Task("tags", "language", "word", ("A", "B", "C"), {"all": tuple(examples)})


def test_one_type_has_one_label_in_every_part():
    drawn_labels, parts = drawn(tagged())
    by_form: dict[str, set[str]] = {}
    for examples in parts.named().values():
        for example in examples:
            for k, (start, end) in enumerate(example.words):
                by_form.setdefault(example.text[start:end].lower(), set()).add(drawn_labels.labels[example.id, k])
    assert len(by_form) == 40
    assert all(len(labels) == 1 for labels in by_form.values())


def test_control_labels_have_the_shares_of_the_true_ones():
    task = tagged(60)
    parts = cut(task, 0)
    true = Counter(target for e in (*parts.train, *parts.validation) for target in e.target)
    counted: Counter[str] = Counter()
    for seed in range(60):  # 40 types each
        found = control_task(task, parts, seed, Looks())
        kinds = {
            e.text[s:t].lower(): found.labels[e.id, k]
            for each in parts.named().values()
            for e in each
            for k, (s, t) in enumerate(e.words)
        }
        counted.update(kinds.values())
    for label, count in true.items():
        assert counted[label] / counted.total() == pytest.approx(count / true.total(), abs=0.03)


def test_labels_hang_on_seed_and_type_and_on_nothing_else():
    task = tagged()
    first, parts = drawn(task)
    again = control_task(task, parts, 0, Looks())
    assert first == again
    fewer = replace(parts, train=parts.train[:-10])  # other shares move the borders a little, and no type's draw
    same = control_task(task, fewer, 0, Looks())
    assert np.mean([same.labels[unit] == first.labels[unit] for unit in same.labels]) > 0.9
    assert control_task(task, parts, 1, Looks()).labels != first.labels


def listened(features, rows, labels):
    """Return accuracy on true labels and on control labels of features (row, width) by part."""
    y = {name: rows[name].features().y for name in SPLITS}
    control = {name: np.array([labels[u] for u in units(rows[name])]) for name in SPLITS}
    X = tuple(features(rows[name]) for name in SPLITS)
    sets = [(each["train"], each["validation"]) for each in (y, control)]
    found = probe_sets(Logistic, X, sets)
    return [score(each["test"], f.predicted, "accuracy") for each, f in zip((y, control), found, strict=True)]


def units(rows):
    return [(example.id, int(k)) for example, k in zip(rows.examples, rows.index, strict=True)]


def test_a_probe_that_learns_by_heart_has_no_selectivity_and_one_that_reads_the_label_has():
    """Hewitt & Liang (2019): random features of every word type let a probe memorise; a feature that is the tag not."""
    task = tagged(200)
    labels = drawn(task)[0].labels
    rows = parts_of(task)
    rng = np.random.default_rng(0)
    vectors = {f"w{i}": rng.normal(size=128) for i in range(40)}

    def by_heart(part):
        return np.stack([vectors[form] for (form,) in words_of(part, False, 1)]).astype(np.float32)

    def carries(part):
        tags = np.array(["A", "B", "C"])
        noise = np.random.default_rng(1).normal(size=(len(part), 3))
        return ((part.features().y[:, None] == tags) * 4 + noise).astype(np.float32)

    true, control = listened(by_heart, rows, labels)
    assert true > 0.98 and abs(true - control) < 0.03
    true, control = listened(carries, rows, labels)
    assert true > 0.9 and true - control > 0.25


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda task: replace(task, classes=()), "its targets are numbers"),
        (lambda task: colour_task(), "1 types in common, and fewer than 8"),
        (lambda task: of_texts(lambda i: f"word{i} again"), "0 types in common"),
        (lambda task: of_texts(lambda i: f"word{i if i % 2 else i % 18} again"), "of the test rows only"),
        (lambda task: replace(of_texts(str), level="vision"), "not every example has an image"),
    ],
)
def test_where_types_do_not_recur_there_is_no_control_task(spoil, reason):
    found, _ = drawn(spoil(tagged()))
    assert reason in found.reason
    assert found.labels == {}


def of_texts(text, count=300):
    examples = tuple(Example(f"e{i}", f"g{i}", text(i), None, ("ab"[i % 3 > 0],)) for i in range(count))
    return Task("texts", "language", "input", ("a", "b"), {"all": examples})


def test_the_type_of_a_text_is_its_opening_and_of_an_image_its_light():
    found, parts = drawn(of_texts(lambda i: f"{'How' if i % 2 else 'how'} many{i % 10} are there, or is it {i}"))
    assert found.reason == "" and found.side == "text"
    by_opening: dict[str, set[str]] = {}
    for example in (*parts.train, *parts.test):
        by_opening.setdefault(" ".join(example.text.lower().split()[:2]), set()).add(found.labels[example.id, 0])
    assert all(len(labels) == 1 for labels in by_opening.values())
    found, parts = drawn(load_task({"name": "shape-class", "scenes": {"train": 100, "test": 50}}))
    assert found.reason == "" and found.side == "image"
    looks, by_light = Looks(), {}
    for example in (*parts.train, *parts.test):
        by_light.setdefault(quarters(looks(example)), set()).add(found.labels[example.id, 0])
    assert len(by_light) >= 8 and all(len(labels) == 1 for labels in by_light.values())
