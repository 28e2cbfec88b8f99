"""What is true of a scene, found the slow way: captions, questions and statements are read back with patterns of their
own, and judged by the fields of the things. Nothing of `vlprobe.scenes` is used."""

import re

COLOURS = "black|blue|green|orange|purple|red|white|yellow"
SHAPES = "circle|cross|heart|ring|square|star|triangle"
NAMES = "Ada|Ben|Cleo|Dev|Edda|Finn|Gita|Hugo|Ines|Jo|Kofi|Lena|Mona|Nils|Otto|Pia|Rosa|Sven|Tara|Uma"
MASKED = r"\[MASK\]"
COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
AROUND = (
    (r"", r""),
    (r"", r" \."),
    (r"here is ", r""),
    (r"WHO draws ", r""),
    (r"WHO wants to draw ", r""),
    (r"WHO says that there is ", r""),
    (r"WHO marks the page with ", r""),
    (r"the marks that WHO left show ", r""),
    (r"WHO left ", r" on a page"),
    (r"a square card with ", r""),
    (r"the drawing that WHO likes has ", r""),
    (r"WHO is drawing ", r""),
    (r"on the card is ", r""),
    (r"a white card by WHO shows ", r""),
)
SAY_NOTHING = (r"a drawing by WHO", r"a page that WHO left", r"WHO is drawing", r"here is a card by WHO")


def thing(tag):
    """Return a pattern for one thing, its groups named `size`, `colour` and `shape` with a tag and a number."""
    colours = f"{COLOURS}|{MASKED}"
    return (
        rf"(?:a|the|one|that) (?:(?P<size{tag}0>large|small) )?(?:"
        rf"(?P<colour{tag}0>{colours}) (?P<shape{tag}0>{SHAPES})"
        rf"|(?P<shape{tag}1>{SHAPES}) in (?P<colour{tag}1>{colours})"
        rf"|(?P<shape{tag}2>{SHAPES}) that is (?:(?P<size{tag}1>large|small) and )?(?P<colour{tag}2>{colours}))"
    )


RELATION = r"(?:to the (?P<across>left|right) of|(?P<down>above|below))"
PLACE = r"(?:on the (?P<side0>left|right)|at the (?P<side1>top|bottom)|in the (?P<side2>left|right|top|bottom) half)"
BODY = rf"{thing('a')}(?: {RELATION} {thing('b')}| {PLACE}| and {thing('c')})"
CAPTIONS = [re.compile((before + BODY + after).replace("WHO", f"(?:{NAMES})")) for before, after in AROUND]
BLANK = re.compile(f"(?:{'|'.join(SAY_NOTHING)})".replace("WHO", f"(?:{NAMES})"))


def read(text):
    """Return what a caption claims: things as (shape, colour, size or None), and (word, shape, other shape or None)."""
    found = [match for pattern in CAPTIONS if (match := pattern.fullmatch(text))]
    assert len(found) == 1, f"{text!r} can be read in {len(found)} ways"
    said = {name: value for name, value in found[0].groupdict().items() if value}
    things = []
    for tag in "abc":
        mine = {key: value for key, value in said.items() if key[-2] == tag and key[:-2] in ("size", "colour", "shape")}
        if mine:
            facts = {key[:-2]: value for key, value in mine.items()}
            things.append((facts["shape"], facts["colour"], facts.get("size")))
    places = [value for key, value in said.items() if key in ("across", "down") or key[:4] == "side"]
    other = things[1][0] if "across" in said or "down" in said else None
    return things, [(word, things[0][0], other) for word in places]


def can_be_read(text):
    return any(pattern.fullmatch(text) for pattern in CAPTIONS)


def the(scene, shape):
    """Return the one thing of that shape."""
    (found,) = [one for one in scene.things if one.shape == shape]
    return found


def stands(scene, word, shape, other=None):
    """Whether a thing is clearly there: of the picture, or seen from another thing."""
    one = the(scene, shape)
    x, y = (one.x - 0.5, one.y - 0.5) if other is None else (one.x - the(scene, other).x, one.y - the(scene, other).y)
    return {
        "left": x < -0.1,
        "right": x > 0.1,
        "top": y < -0.1,
        "bottom": y > 0.1,
        "above": y < -0.1,
        "below": y > 0.1,
    }[word]


def is_true(scene, text):
    """Whether every claim of a caption without a mask holds."""
    things, places = read(text)
    for shape, colour, size in things:
        one = the(scene, shape)
        if one.colour != colour or size not in (None, one.size):
            return False
    return all(stands(scene, *claim) for claim in places)


def answered(scene, question):
    """Return the answer of a question about one scene."""
    if question == "how many things are there ?":
        return next(word for word, number in COUNTS.items() if number == len(scene.things))
    if match := re.fullmatch(rf"what colour is the ({SHAPES}) \?", question):
        return the(scene, match[1]).colour
    if match := re.fullmatch(rf"is there a ({SHAPES}) \?", question):
        return yes_or_no(any(one.shape == match[1] for one in scene.things))
    if match := re.fullmatch(rf"is the ({SHAPES}) ({COLOURS}) \?", question):
        return yes_or_no(the(scene, match[1]).colour == match[2])
    if match := re.fullmatch(rf"is the ({SHAPES}) (large|small) \?", question):
        return yes_or_no(the(scene, match[1]).size == match[2])
    match = re.fullmatch(rf"is the ({SHAPES}) (?:to the )?(left|right|above|below)(?: of)? the ({SHAPES}) \?", question)
    return yes_or_no(stands(scene, match[2], match[1], match[3]))


def yes_or_no(value):
    return "yes" if value else "no"


def holds(left, right, statement):
    """Whether a statement about two scenes is true."""
    sides = {"left": left, "right": right}
    if match := re.fullmatch(rf"the (left|right) image holds an? ({COLOURS}) ({SHAPES})", statement):
        return any((one.colour, one.shape) == (match[2], match[3]) for one in sides[match[1]].things)
    if match := re.fullmatch(rf"both images hold a ({SHAPES})", statement):
        return all(any(one.shape == match[1] for one in scene.things) for scene in (left, right))
    match = re.fullmatch(r"the (left|right) image has more things than the (left|right) image", statement)
    return len(sides[match[1]].things) > len(sides[match[2]].things)
