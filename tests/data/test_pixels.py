"""One image file: what is read is what was written, at its own depth, and what would lose something is refused with its name."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.examples import read_examples
from undiffuse.data.pixels import ImageOptions, Unreadable, _bits, mode_of, read_image, upright_size
from undiffuse.data.resizing import ORIENTATION
from undiffuse.data.sources import open_data
from undiffuse.errors import UsageError
from undiffuse.pictures.images import png_of_16_bits, save_image


def deep(channels, highest=65535, size=(7, 6)):
    return np.random.default_rng(channels).integers(0, highest + 1, (*size, channels), dtype=np.uint16)


def filtered_png(values, interlaced=False):
    """A 16-bit PNG whose lines use each of the five filters in turn (ISO 15948, 9.2), written here by the definition."""
    height, width, channels = values.shape
    raw = [np.frombuffer(line.astype(">u2").tobytes(), np.uint8).astype(int) for line in values]
    step, lines, above = 2 * channels, b"", np.zeros(width * channels * 2, int)
    for y, line in enumerate(raw):
        left, corner = (
            np.concatenate([np.zeros(step, int), line[:-step]]),
            np.concatenate([np.zeros(step, int), above[:-step]]),
        )
        p = left + above - corner
        near = np.stack([abs(p - left), abs(p - above), abs(p - corner)]).argmin(0)
        predicted = [0 * line, left, above, (left + above) // 2, np.choose(near, [left, above, corner])][y % 5]
        lines += bytes([y % 5]) + ((line - predicted) % 256).astype(np.uint8).tobytes()
        above = line

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff(values, order, compressed):
    """A TIFF of one strip (TIFF 6.0, section 2)."""
    height, width, channels = values.shape
    data = values.astype(order + "u2").tobytes()
    data = zlib.compress(data) if compressed else data
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, 0),
        (259, 3, 1, 8 if compressed else 1),
        (262, 3, 1, 2),
    ]
    entries += [(273, 4, 1, 0), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1)]
    entries += [(338, 3, 1, 2)] if channels == 4 else []
    bits_at = 8 + 2 + 12 * len(entries) + 4
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    out = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        value = {258: bits_at, 273: bits_at + len(bits)}.get(tag, value)
        short = kind == 3 and count == 1
        out += struct.pack(order + ("HHIHH" if short else "HHII"), tag, kind, count, value, *([0] if short else []))
    return out + struct.pack(order + "I", 0) + bits + data


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_16_bits(tmp_path, channels):
    values = deep(channels)
    for name, content in (("a.png", filtered_png(values)), ("b.png", png_of_16_bits(values))):
        (tmp_path / name).write_bytes(content)
        picture = read_image(tmp_path / name)
        assert picture.mode == ["I;16", "LA;16", "RGB;16", "RGBA;16"][channels - 1]
        assert np.array_equal(np.moveaxis(picture.values, 0, -1), values)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_tiff_keeps_16_bits(tmp_path, channels, order, compressed):
    values = deep(channels)
    (tmp_path / "a.tif").write_bytes(tiff(values, order, compressed))
    assert np.array_equal(np.moveaxis(read_image(tmp_path / "a.tif").values, 0, -1), values)


@pytest.mark.parametrize("highest", [65535, 4095])
def test_ppm_keeps_16_bits_white_as_white(tmp_path, highest):
    values = deep(3, highest)
    (tmp_path / "a.ppm").write_bytes(b"P6\n# a remark\n6 7\n%d\n" % highest + values.astype(">u2").tobytes())
    expected = np.round(values.astype(float) / highest * 65535)
    assert np.array_equal(np.moveaxis(read_image(tmp_path / "a.ppm").values, 0, -1), expected)


def test_orientation_holds_for_both_bytes(tmp_path):
    values = deep(3)
    content = bytearray(png_of_16_bits(values))
    exif = Image.Exif()
    exif[274] = 6
    part = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(part)) + b"eXIf" + part + struct.pack(">I", zlib.crc32(b"eXIf" + part))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    assert np.array_equal(np.moveaxis(read_image(tmp_path / "a.png").values, 0, -1), np.rot90(values, -1))


@pytest.mark.parametrize("channels", ["grey", "rgb", "rgba"])
def test_channels_of_16_bits_are_converted_at_16_bits(tmp_path, channels):
    grey = np.array([[0, 1000, 7000, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif", "a.pgm"):
        Image.fromarray(grey).save(tmp_path / name)
        values = read_image(tmp_path / name, ImageOptions(channels)).values
        assert (values[:3] == grey).all()
        assert len(values) == {"grey": 1, "rgb": 3, "rgba": 4}[channels]
        assert channels != "rgba" or (values[3] == 65535).all()


def test_grey_of_16_bit_colour_weighs_as_pillow_does_of_8(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png_of_16_bits(colour.astype(np.uint16) * 257))
    eight = np.asarray(Image.fromarray(colour).convert("L")).astype(float)
    assert (
        np.abs(read_image(tmp_path / "a.png", ImageOptions("grey")).values[0] / 257 - eight).max() <= 0.5 + 1e-2
    )  # Pillow rounds, and its weights have 16 bits


def test_8_and_16_bits_together_become_16_where_one_kind_is_asked_for(tmp_path):
    shallow, dark = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8, np.arange(30, dtype=np.uint16).reshape(5, 6) * 2000
    Image.fromarray(shallow).save(tmp_path / "a.png")
    Image.fromarray(dark).save(tmp_path / "b.png")
    with pytest.raises(UsageError, match="`channels`"):
        open_data(DataConfig(source=str(tmp_path)))
    for again in range(2):  # whichever is read first
        data = open_data(DataConfig(source=str(tmp_path), channels="grey"))
        a, b = (0, 1) if not again else (1, 0)
        assert np.array_equal(data.values[a, 0], shallow.astype(int) * 257)
        assert np.array_equal(data.values[b, 0], dark)
        assert any(
            "1 of 2 images" in note and "65535 of the 16 bits that the others use" in note for note in data.notes
        )
        if not again:
            (tmp_path / "b.png").rename(tmp_path / "0.png")


@pytest.mark.parametrize("channels", ["grey", "rgba"])
@pytest.mark.parametrize("first", ["a", "c"])
def test_8_bits_beside_scans_of_12_are_brought_to_12(channels, first, tmp_path):
    """Black and white mean the same in both halves: 255 is 4095, and alpha is full in both."""
    shallow, scan = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8, np.arange(30, dtype=np.uint16).reshape(5, 6) * 141
    shallow[-1, -1] = 255
    Image.fromarray(shallow).save(tmp_path / "b.png")
    Image.fromarray(scan).save(tmp_path / f"{first}.png")
    data = open_data(DataConfig(source=str(tmp_path), channels=channels))
    eight, twelve = (1, 0) if first == "a" else (0, 1)
    colour = slice(0, 3 if channels == "rgba" else 1)
    assert (data.values[twelve, colour] == scan).all()
    assert np.abs(data.values[eight, colour] / 4095 - shallow / 255).max() <= 0.5 / 4095 + 1e-9
    assert channels == "grey" or (data.values[:, 3] == 65535).all()
    assert fitted_codec(data).high[0] == 4095
    assert any("b.png" in note and "4095 of the 12 bits" in note for note in data.notes)


def test_floats_and_wide_integers_are_kept(tmp_path):
    floats = np.linspace(-2, 3000.5, 12, dtype=np.float32).reshape(3, 4)
    whole = np.arange(-6, 6, dtype=np.int32).reshape(3, 4) * 100_000
    for name, values in (("f.tif", floats), ("s.tif", whole)):
        Image.fromarray(values).save(tmp_path / name)
        found = read_image(tmp_path / name).values
        assert found.dtype == values.dtype
        assert np.array_equal(found[0], values)
        assert np.array_equal(read_image(tmp_path / name, ImageOptions("rgb")).values, np.stack([values] * 3))
        assert read_image(tmp_path / name, ImageOptions(size=(6, 8), fit="stretch")).values.shape == (1, 6, 8)


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_of_both_byte_orders_is_one(tmp_path, order):
    values = np.arange(0, 60000, 5000, dtype=np.uint16).reshape(3, 4)
    Image.frombytes("I;16" if order == "<" else "I;16B", (4, 3), values.astype(f"{order}u2").tobytes()).save(
        tmp_path / "a.tif"
    )
    found = read_image(tmp_path / "a.tif").values
    assert found.dtype == np.uint16
    assert np.array_equal(found[0], values)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colours_become_rgb_and_that_is_said(tmp_path, mode):
    image = Image.new("RGB", (4, 3), (200, 30, 60))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.tif")
    picture = read_image(tmp_path / "a.tif")
    assert picture.mode == "RGB"
    assert picture.converted == mode
    assert np.abs(picture.values[:, 0, 0].astype(int) - (200, 30, 60)).max() <= 3  # each of the two conversions rounds
    data = open_data(DataConfig(source=str(tmp_path)))
    assert any(f"a.tif ({mode})" in note and "converted to RGB" in note for note in data.notes)


@pytest.mark.parametrize("channels", [None, "grey", "rgb"])
def test_floats_and_pixels_in_one_folder_are_refused_whatever_is_asked_for(tmp_path, channels):
    Image.fromarray(np.zeros((3, 4), np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "g.png")
    with pytest.raises(UsageError, match="2 kinds of pixel"):
        open_data(DataConfig(source=str(tmp_path), channels=channels))


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow reads no JPEG 2000")
def test_jpeg_2000_of_16_bit_colour_is_refused(tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.jp2")
    assert read_image(tmp_path / "a.jp2").mode == "RGB"
    content = bytearray((tmp_path / "a.jp2").read_bytes())
    size = content.find(b"\xff\x51")
    for k in range(3):  # its three components say 16 bits
        content[size + 40 + 3 * k] = 15
    (tmp_path / "a.jp2").write_bytes(bytes(content))
    with pytest.raises(Unreadable, match=r"16 bits.*\.npy"):
        read_image(tmp_path / "a.jp2")


def test_the_bits_of_an_avif_are_found_in_its_head(tmp_path):
    """AV1 codec configuration (AV1 in ISO base media, 2.3.3): marker and version, profile and level, then tier, high_bitdepth, twelve_bit, …"""
    if features.check("avif"):
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.avif")
        assert read_image(tmp_path / "a.avif").mode == "RGB"
    for flags, bits in ((0x0C, 8), (0x4C, 10), (0x6C, 12)):
        (tmp_path / "b.avif").write_bytes(b"\0\0\0\x20ftypavif" + b"\0\0\0\x0cav1C" + bytes([0x81, 0x00, flags, 0x00]))
        assert _bits(tmp_path / "b.avif", SimpleNamespace(format="AVIF")) == bits


@pytest.mark.parametrize(
    ("mode", "transparent", "result"), [("L", 7, "LA"), ("RGB", (7, 7, 7), "RGBA"), ("I;16", 7, "LA;16")]
)
def test_a_transparent_colour_is_alpha(tmp_path, mode, transparent, result):
    grey = np.array([[7, 8, 200], [7, 0, 9]], dtype=np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(np.repeat(grey[..., None], 3, 2) if mode == "RGB" else grey).save(
        tmp_path / "a.png", transparency=transparent
    )
    picture = read_image(tmp_path / "a.png")
    assert picture.mode == result
    assert np.array_equal(picture.values[-1] == 0, grey == 7)
    assert np.array_equal(picture.values[0], grey)


def test_resizing_16_bits_neither_overshoots_the_depth_nor_lets_hidden_colours_bleed(tmp_path):
    scan = np.where(np.arange(40) < 20, 0, 4095).astype(np.uint16)[None].repeat(40, 0)
    Image.fromarray(scan).save(tmp_path / "scan.png")
    assert read_image(tmp_path / "scan.png", ImageOptions(size=(30, 30), fit="stretch")).values.max() == 4095
    values = np.zeros((40, 40, 4), np.uint16)
    values[:, :20] = (60000, 0, 0, 0)  # hidden red
    values[:, 20:] = (0, 30000, 0, 65535)
    (tmp_path / "a.png").write_bytes(png_of_16_bits(values))
    small = read_image(tmp_path / "a.png", ImageOptions(size=(15, 15), fit="stretch")).values
    seen = small[3] > 1000
    assert small[0][seen].max() < 3000  # red, but for ringing
    assert abs(small[1][seen].astype(int) - 30000).max() < 3000


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_samples_are_written_with_the_16_bits_of_the_data(tmp_path, channels):
    (tmp_path / "D").mkdir()
    for k in range(2):
        (tmp_path / "D" / f"{k}.png").write_bytes(png_of_16_bits(deep(channels) // (k + 1)))
    data = open_data(DataConfig(source=str(tmp_path / "D")))
    codec = Codec(fitted_codec(data))
    back = codec.decode(codec.encode(data.values))
    save_image(back[0], codec.config, tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").values, data.values[0])
    assert mode_of(data.values[0]) == data.mode == codec.config.mode
    values, notes = read_examples(tmp_path / "a.png", codec.config)
    assert np.array_equal(values[0], data.values[0])
    assert not notes


def test_a_picture_of_8_bits_is_white_where_a_model_of_12_bits_is(tmp_path):
    config = fitted_codec(open_data_of(np.array([[[0, 4095], [9, 2000]]], np.uint16)))
    Image.fromarray(np.array([[0, 255], [51, 102]], np.uint8)).save(tmp_path / "a.png")
    values, _ = read_examples(tmp_path / "a.png", config)
    assert np.array_equal(values[0, 0], [[0, 4095], [4095 / 5, 4095 * 2 / 5]])
    assert torch.equal(Codec(config).encode(values).amax(), torch.tensor(1.0))


def test_what_is_done_to_one_image_is_said(tmp_path):
    config = fitted_codec(open_data_of(np.array([[[0, 4095], [9, 2000]]], np.uint16)))
    pages = [Image.fromarray(np.full((2, 90), k, np.uint16)) for k in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    notes = read_examples(tmp_path / "a.tif", config)[1]
    assert any("3 pages or frames, the first is used" in note for note in notes)
    assert any("98% of it is cut away" in note for note in notes)
    assert not any("cut" in note for note in read_examples(tmp_path / "a.tif", config, "pad")[1])


def open_data_of(values):
    from undiffuse.data.dataset import Dataset

    return Dataset("test", values[:, None], mode="I;16")


@pytest.mark.parametrize(("orientation", "size"), [(1, (4, 6)), (3, (4, 6)), (6, (6, 4)), (8, (6, 4))])
def test_the_size_of_a_file_is_that_of_its_image_upright(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert upright_size(tmp_path / "a.png") == size == read_image(tmp_path / "a.png").values.shape[1:]
    (tmp_path / "b.png").write_bytes(b"nothing")
    assert upright_size(tmp_path / "b.png") is None
    assert upright_size(tmp_path / "c.npy") is None


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"no picture", "no image")])
def test_what_is_no_image_is_said_without_words_of_the_program(tmp_path, content, words):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Unreadable, match=words) as refused:
        read_image(tmp_path / "a.png")
    assert "<" not in str(refused.value)


# Large pictures -----------------------------------------------------------------------------------------------------------


def _smooth(shape: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) of smooth shapes, which has little beyond the frequencies that 24 pixels can hold."""
    y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    channels = [np.sin(7 * x + k) * np.cos(5 * y - k) for k in range(3)]
    return ((np.stack(channels, -1) + 1) * 127.5).round().astype(np.uint8)


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1000, 700), (613, 1291), (64, 1000), (601, 599)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_resizing_in_two_steps_is_nearly_that_by_all_pixels(tmp_path, suffix, fit, shape, orientation):
    """Wherever the edge of a JPEG lies within its last blocks, and however it is turned.

    A pixel of the first step, a third of one of the result, may lie partly beyond the edge, and then half of it too far out.
    """
    options = {"quality": 95} if suffix == ".jpg" else {}
    Image.fromarray(_smooth(shape)).save(tmp_path / f"a{suffix}", exif=_turned(orientation), **options)
    for size in ((32, 32), (24, 48)):
        exact = read_image(tmp_path / f"a{suffix}", ImageOptions(size=size, fit=fit, exact_resize=True))
        quick = read_image(tmp_path / f"a{suffix}", ImageOptions(size=size, fit=fit))
        assert quick.values.shape == exact.values.shape == (3, *size)
        assert (quick.size, quick.cut) == (exact.size, exact.cut)
        difference = np.abs(quick.values.astype(int) - exact.values)
        steepest = max(np.abs(np.diff(exact.values.astype(int), axis=axis)).max() for axis in (1, 2))
        assert difference.mean() <= 0.5
        assert difference.max() <= max(3, steepest / 6)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_values(tmp_path, suffix, orientation):
    for shape in ((20, 50), (50, 20), (40, 41)):
        Image.fromarray(_smooth(shape)).save(tmp_path / f"a{suffix}", exif=_turned(orientation))
        found = read_image(tmp_path / f"a{suffix}")
        assert upright_size(tmp_path / f"a{suffix}") == found.size == found.values.shape[1:]


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 4000), (3000, 2)])
@pytest.mark.parametrize("exact", [True, False])
def test_padding_keeps_what_is_thinner_than_a_pixel(tmp_path, shape, exact):
    Image.fromarray(np.full(shape, 255, np.uint8)).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", ImageOptions(size=(8, 8), fit="pad", exact_resize=exact)).values
    assert found.max() == 255
    assert (found > 0).sum() == 8


def test_small_pictures_are_resized_in_one_step(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)).save(tmp_path / "a.png")
    exact = read_image(tmp_path / "a.png", ImageOptions(size=(32, 32), exact_resize=True)).values
    assert np.array_equal(read_image(tmp_path / "a.png", ImageOptions(size=(32, 32))).values, exact)
