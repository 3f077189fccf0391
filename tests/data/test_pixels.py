"""Samples of more than 8 bits become 8 bits. Truth: the samples as written, scaled by hand."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from few_shot_nas.data.image_files import decoded
from few_shot_nas.data.pixels import Bounds, Deep, shallow
from few_shot_nas.data.sources.image_folder import ImageFolder
from few_shot_nas.errors import InputError

RAMP = np.linspace(0, 1, 36).reshape(6, 6)


def png16(samples: np.ndarray) -> bytes:
    """Encode uint16 ``[H, W, C]`` as PNG, which Pillow cannot for colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(samples: np.ndarray, **tags: float) -> bytes:
    stream, info = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        number = {"largest": 281, "own_smallest": 340, "own_largest": 341, "orientation": 274}[name]
        info.tagtype[number] = 12 if number > 300 else 3
        info[number] = value
    Image.fromarray(samples).save(stream, "TIFF", tiffinfo=info)
    return stream.getvalue()


def folder(root: Path, pictures: dict[str, bytes], channels: int = 1) -> dict[str, np.ndarray]:
    """Return each class's picture as ImageFolder packs it, together with those of the other classes."""
    for name, content in pictures.items():
        (root / "data" / name).mkdir(parents=True)
        (root / "data" / name / ("0.tif" if content[:2] in (b"II", b"MM") else "0.png")).write_bytes(content)
    made = ImageFolder(str(root / "data"), str(root / "cache"), 6, image_channels=channels, val_fraction=0.3)
    splits = [made.split(name) for name in made.split_names()]
    return {name: split.images[i] for split in splits for i, name in enumerate(split.class_names)}


def three(content: bytes) -> dict[str, bytes]:
    return dict.fromkeys(("a", "b", "c"), content)


@pytest.mark.parametrize(
    ("samples", "low", "span"),
    [
        (RAMP.astype(np.float32), 0, 1),
        ((RAMP * 0.6).astype(np.float32), 0, 1),
        ((RAMP * 255).astype(np.float32), 0, 255),
        ((RAMP * 65536).astype(np.float32), 0, 65536),
        ((RAMP * 1e-4).astype(np.float32), 0, 2.0**-13),
        ((RAMP * 2 - 1).astype(np.float32), -1, 2),
        ((RAMP * 255).astype(np.int32), 0, 256),
        ((RAMP * 4095).astype(np.int32), 0, 4096),
        ((RAMP * 2**30).astype(np.int32), 0, 2**31),
        ((RAMP * 4095).astype(np.uint16), 0, 4096),
        ((RAMP * 65535).astype(np.uint16), 0, 65536),
        ((RAMP * 9).astype(np.uint16), 0, 16),
        ((RAMP * 2000 - 1000).astype(np.int32), -1000, 2000),
    ],
)
def test_every_range_fills_the_8_bits_as_far_as_its_own_bits(tmp_path: Path, samples, low, span) -> None:
    found = folder(tmp_path, three(tiff(samples)))["a"][:, :, 0]
    levels = 256 if samples.dtype.kind in "iu" and low == 0 else 255
    assert np.abs(found - (samples.astype(np.float64) - low) * levels / span).max() <= 1
    assert found.max() > 120


def test_pictures_keep_their_brightness_relative_to_each_other(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    values = {"dark": 200, "middle": 1000, "bright": 3200}
    found = folder(tmp_path, {n: tiff(np.full((6, 6), v, dtype=np.uint16)) for n, v in values.items()})
    assert {name: int(pixels[0, 0, 0]) for name, pixels in found.items()} == {n: v >> 4 for n, v in values.items()}
    assert "3 images of more than 8 bits have samples from 200 to 3200; 0 to 4095 becomes 0 to 255" in caplog.messages


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(np.full((6, 6), 1000, dtype=np.uint16), largest=4000), 1000 >> 4),
        (tiff(np.full((6, 6), 2.0, dtype=np.float32), own_smallest=0.0, own_largest=8.0), 64),
        (tiff(np.full((6, 6), 2.0, dtype=np.float32), own_smallest=0.0, own_largest=1.0), 255),
        (b"P5\n6 6\n1023\n" + np.full((6, 6), 300, dtype=">u2").tobytes(), 75),
    ],
    ids=["TIFF's largest value", "TIFF's own largest value", "a largest value that is exceeded", "PGM"],
)
def test_a_range_that_a_file_declares_and_keeps_is_taken(tmp_path: Path, content: bytes, expected: float) -> None:
    found = folder(tmp_path, three(content))["a"]
    assert abs(int(found[0, 0, 0]) - expected) <= 1


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("top", [4095, 65535])
def test_colours_of_16_bits_keep_the_bits_they_have(tmp_path: Path, channels: int, top: int) -> None:
    samples = np.random.default_rng(0).integers(0, top + 1, (6, 6, channels)).astype(np.uint16)
    samples[0, 0] = top
    if channels == 4:
        samples[:, :, 3] = 65535
    found = folder(tmp_path, three(png16(samples)), channels=3)["a"]
    np.testing.assert_array_equal(found, samples[:, :, :3] // ((top + 1) // 256))


def test_deep_pictures_are_turned_as_their_tag_says() -> None:
    samples = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    plain = Image.fromarray((samples // 300).astype(np.uint8))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        deep_one, flat_one = io.BytesIO(), io.BytesIO()
        Image.fromarray(samples).save(deep_one, "PNG", exif=exif)
        plain.save(flat_one, "PNG", exif=exif)
        found, wanted = (decoded(stream.getvalue(), "x:", upright=True) for stream in (deep_one, flat_one))
        assert isinstance(found, Deep)
        np.testing.assert_array_equal(found.samples // 300, np.asarray(wanted))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_named(tmp_path: Path, odd: float) -> None:
    samples = RAMP.astype(np.float32)
    samples[2, 3] = odd
    with pytest.raises(InputError, match=r"0\.tif: cannot be read as an image \(it holds samples that are not finite"):
        folder(tmp_path, three(tiff(samples)))


def test_constant_pictures_are_counted_in_a_warning(tmp_path: Path, caplog) -> None:
    folder(tmp_path, three(tiff(np.zeros((6, 6), dtype=np.uint16))))
    assert sum("1 of 1 images are constant" in message for message in caplog.messages) == 3


def test_unsigned_32_bits_are_not_taken_for_negative(tmp_path: Path) -> None:
    content = bytearray(tiff((RAMP * 2**31).astype(np.int64).astype(np.int32)))  # the top bit set, as unsigned
    at = content.find(struct.pack("<HHI", 339, 3, 1))
    assert at > 0
    content[at + 8] = 1  # SampleFormat: unsigned
    found = folder(tmp_path, three(bytes(content)))["a"][:, :, 0]
    assert found[5, 5] == 128 and found[0, 0] == 0


def test_an_empty_range_is_black() -> None:
    flat = Deep(np.zeros((2, 2), dtype=np.int32), Bounds(0, 0, True))
    assert np.asarray(shallow(flat, flat.bounds.scale())).tolist() == [[0, 0], [0, 0]]
