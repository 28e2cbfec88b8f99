"""Images as the world writes them: what is opened is what a viewer shows."""

import io

import numpy as np
import pytest
from PIL import Image

from vlprobe.errors import BadRow
from vlprobe.images import image_size, open_image

RAMP = np.linspace(0, 255, 32).round().astype(np.uint8)[None].repeat(8, axis=0)
"""(8, 32): from black to white."""
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 90)], axis=-1)


def written(image, kind, **more):
    held = io.BytesIO()
    image.save(held, kind, **more)
    return held.getvalue()


def pixels(data):
    return np.asarray(open_image(data)).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_a_ramp_and_not_white(kind):
    grey = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert np.abs(pixels(written(grey, kind)) - RAMP[..., None]).max() <= 1


def test_sixteen_bits_with_the_larger_byte_first():
    big = Image.frombytes("I;16B", (32, 8), (RAMP.astype(np.uint16) * 257).astype(">u2").tobytes())
    assert np.abs(pixels(written(big, "TIFF")) - RAMP[..., None]).max() <= 1


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_white_are_refused(kind):
    with pytest.raises(BadRow, match=r"captions.csv, row 3: .* does not say what white is; save it with 8 or 16 bits"):
        open_image(written(Image.fromarray(RAMP.astype(kind)), "TIFF"), "captions.csv, row 3")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("kind", "form"), [("PNG", "P"), ("PNG", "RGBA"), ("TIFF", "CMYK"), ("GIF", "P")])
def test_palettes_transparency_and_inks_show_their_colours(kind, form):
    if form == "RGBA":
        image = Image.fromarray(np.dstack([COLOURS, RAMP]))
    else:
        image = Image.fromarray(COLOURS).quantize(64) if form == "P" else Image.fromarray(COLOURS).convert(form)
    more = {"transparency": bytes(range(64))} if (kind, form) == ("PNG", "P") else {}
    assert np.abs(pixels(written(image, kind, **more)) - COLOURS).max() <= 12


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_it_is_the_first_picture(kind):
    first, second = Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)
    more = {"lossless": True} if kind == "WEBP" else {}
    got = pixels(written(first, kind, save_all=True, append_images=[second], **more))
    assert np.abs(got - COLOURS).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # EXIF 2.32, tag 274: where the first row and the first column of what is shown lie in what is stored.
    turned = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud}
    turned |= {5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1)}
    turned |= {7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90}
    assert (pixels(written(Image.fromarray(COLOURS), "PNG", exif=exif)) == turned[orientation](COLOURS)).all()
    high, wide = turned[orientation](COLOURS).shape[:2]
    assert image_size(written(Image.fromarray(COLOURS), "PNG", exif=exif)) == (wide, high)
