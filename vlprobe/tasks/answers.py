"""From a row of the released files to what a model reads and what a probe is to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vlprobe.errors import BadRow, DataError, did_you_mean
from vlprobe.settings import resolve_path
from vlprobe.tasks.cells import number_of, text_of
from vlprobe.tasks.conllu import Sentence, read_conllu
from vlprobe.tasks.released import Line, Release, flower_number, read_mat
from vlprobe.tasks.words import Span, covering_words, masked_words
from vlprobe.types import Target

COLOURS = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")
FLOWERS = tuple(f"{number:03d}" for number in range(1, 103))
"""Zero-padded, so that their order is that of the numbers."""

SPACY_MODEL = "en_core_web_sm"
"""The tagger of the paper."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The part of an `Example` that depends on the task."""

    text: str | None
    """What a model reads."""
    target: tuple[Target, ...]
    """One value per unit."""
    words: tuple[Span, ...] = ()
    """For unit `word`."""


Answerer = Callable[[Line], Answer]
"""Raises BadRow for a row that cannot be used."""
Prepare = Callable[[Release, Sequence[Line]], Answerer]
"""Reads what a task needs beside its CSV."""


def yes_or_no(release: Release, lines: Sequence[Line]) -> Answerer:
    """Targets are 0 and 1."""

    def answer(line: Line) -> Answer:
        if line.target not in ("0", "1"):
            raise BadRow(line.place, f"the target must be 0 or 1, found {line.target!r}")
        return Answer(text_of(line.text, "comment", line.place), (line.target,))

    return answer


def count(release: Release, lines: Sequence[Line]) -> Answerer:
    """Targets are numbers."""

    def answer(line: Line) -> Answer:
        text = text_of(line.text, "comment", line.place)
        return Answer(text, (number_of(line.target, "target", line.place),))

    return answer


def colour(release: Release, lines: Sequence[Line]) -> Answerer:
    """The target of the masked word is its colour; the other words have none."""

    def answer(line: Line) -> Answer:
        if line.target not in COLOURS:
            raise BadRow(line.place, f"the target {line.target!r} is not a colour{did_you_mean(line.target, COLOURS)}")
        words, mask = masked_words(text_of(line.text, "comment", line.place), line.place)
        return Answer(line.text, tuple(line.target if i == mask else None for i in range(len(words))), words)

    return answer


def flower(release: Release, lines: Sequence[Line]) -> Answerer:
    """The target is looked up by the number of the image; there is no text: the captions are one blank each."""
    labels = read_mat(release, "imagelabels.mat", ("labels",))["labels"]

    def answer(line: Line) -> Answer:
        number = flower_number(line)
        if not 1 <= number <= len(labels) or not 1 <= labels[number - 1] <= len(FLOWERS):
            raise BadRow(line.place, f"imagelabels.mat holds no label from 1 to {len(FLOWERS)} for {line.image}")
        return Answer(None, (FLOWERS[labels[number - 1] - 1],))

    return answer


def tags(release: Release, lines: Sequence[Line]) -> Answerer:
    """The target of a word is its part of speech, from the file `tags` or else from spaCy as in the paper."""
    return _tags_from_file(release) if release.options["tags"] else _tags_from_spacy(release, lines)


def _tags_from_file(release: Release) -> Answerer:
    shown = release.options["tags"]
    problems: list[BadRow] = []
    path = resolve_path(shown, release.folder)
    sentences, source = read_conllu(path, shown, release.options["column"], problems.append)
    known = _by_id(sentences, shown)
    if problems:
        raise DataError(f"{len(problems)} sentences of the file of tags cannot be read; the first: {problems[0]}")
    release.sources.append(source)

    def answer(line: Line) -> Answer:
        text = text_of(line.text, "comment", line.place)
        names = (f"{line.image}#{line.caption}", line.image, line.image.removesuffix(".jpg"))
        sentence = next((known[name] for name in names if name in known), None)
        if sentence is None:
            raise BadRow(line.place, f"{shown} has no sentence whose sent_id is {' or '.join(names)}")
        try:
            words = covering_words(text, sentence.forms, line.place)
        except BadRow as problem:
            raise BadRow(line.place, f"{sentence.place} does not fit the caption: {problem.problem}") from None
        return Answer(text, sentence.tags, words)

    return answer


def _by_id(sentences: Iterator[Sentence], shown: str) -> dict[str, Sentence]:
    known: dict[str, Sentence] = {}
    for sentence in sentences:
        if sentence.id in known:
            raise DataError(
                f"{sentence.place}: sent_id '{sentence.id}' is already that of {known[sentence.id].place}; "
                f"the sentences of {shown} are found by their sent_id"
            )
        if sentence.id:
            known[sentence.id] = sentence
    return known


def _tags_from_spacy(release: Release, lines: Sequence[Line]) -> Answerer:
    cure = "or name a file of tags in the study, `tags: FILE.conllu`, whose sent_id are the names of the images"
    try:
        import spacy
    except ImportError:
        raise DataError(
            f"pos-tagging takes its tags from spaCy, which is not installed: pip install 'vlprobe[spacy]' "
            f"and python -m spacy download {SPACY_MODEL}, {cure}"
        ) from None
    try:
        tagger = spacy.load(SPACY_MODEL, exclude=["parser", "ner", "lemmatizer"])
    except OSError:
        raise DataError(
            f"pos-tagging takes its tags from spaCy, whose model {SPACY_MODEL} is not installed: "
            f"python -m spacy download {SPACY_MODEL}, {cure}"
        ) from None
    release.options["tagger"] = f"{SPACY_MODEL} {tagger.meta['version']}, spaCy {spacy.__version__}"
    texts = list(dict.fromkeys(line.text for line in lines))
    answers = {}
    for text, document in zip(texts, tagger.pipe(texts), strict=True):
        tokens = [token for token in document if not token.is_space]
        spans = tuple((token.idx, token.idx + len(token.text)) for token in tokens)
        answers[text] = Answer(text, tuple(token.tag_ or None for token in tokens), spans)

    def answer(line: Line) -> Answer:
        text_of(line.text, "comment", line.place)
        return answers[line.text]

    return answer
