"""Files become pixels as their publishers stored them: no colour, orientation or stretching in between."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from aerial_seg.benchmarks import labels as room
from aerial_seg.benchmarks.dataset import Example
from aerial_seg.benchmarks.labels import UNKNOWN, channels_of, check_sizes, read_image, read_values
from aerial_seg.errors import InputError

RANDOM = np.random.default_rng(4)
VALUES = RANDOM.integers(0, 21, (41, 57)).astype(np.uint8)
PIXELS = RANDOM.integers(0, 256, (30, 43, 3)).astype(np.uint8)


def stored(path: Path) -> NDArray[np.uint8]:
    """What GDAL reads, which never applies a palette."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read(1)


def packed_png(path: Path, values: NDArray[np.uint8], *, bits: int, colour_type: int) -> None:
    """A PNG of fewer than 8 bits a pixel, by the specification; colour_type 0 is grey, 3 palette."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    rows = np.packbits((values[:, :, None] >> shifts & 1).reshape(height, -1), axis=1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    palette = chunk(b"PLTE", RANDOM.bytes(3 * 2**bits)) if colour_type == 3 else b""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_silent_error_4_palette_labels_are_indices_whatever_the_order_of_the_palette(
    tmp_path: Path, palette_png: Callable[..., None], publishers_palette: NDArray[np.uint8]
) -> None:
    path = tmp_path / "label.png"
    for order in (np.arange(256), np.arange(256)[::-1], RANDOM.permutation(256)):
        palette_png(path, VALUES, publishers_palette[order])
        found = read_values(path)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, VALUES)
        np.testing.assert_array_equal(found, stored(path))
        # The trap is set: luminances are other numbers.
        assert (np.asarray(Image.open(path).convert("L")) != VALUES).any()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour_type", [0, 3])
def test_labels_of_few_bits_are_not_stretched(tmp_path: Path, bits: int, colour_type: int) -> None:
    """PNG optimisers pack small numbers; Pillow stretches grey ones to 0–255."""
    path = tmp_path / "packed.png"
    values = VALUES % 2**bits
    packed_png(path, values, bits=bits, colour_type=colour_type)
    np.testing.assert_array_equal(read_values(path), values)


def test_eight_bit_grey_labels_are_values(tmp_path: Path, grey_png: Callable[..., None]) -> None:
    path = tmp_path / "label.png"
    grey_png(path, VALUES * 12)
    np.testing.assert_array_equal(read_values(path), VALUES * 12)


@pytest.mark.parametrize(
    ("file", "image", "message"),
    [
        ("rgb.png", Image.fromarray(PIXELS), "rgb.png is PNG of mode RGB, wanted a PNG of class numbers"),
        ("wide.png", Image.fromarray(VALUES.astype(np.uint16)), "wide.png is PNG of mode I;16"),
        ("smeared.jpg", Image.fromarray(VALUES), "smeared.jpg is JPEG of mode L"),
    ],
)
def test_labels_of_another_kind_are_an_error(
    tmp_path: Path, file: str, image: Image.Image, message: str
) -> None:
    image.save(tmp_path / file)
    with pytest.raises(InputError, match=message):
        read_values(tmp_path / file)


@pytest.mark.parametrize("reader", [read_values, read_image])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "flipped"])
def test_damaged_files_are_an_error_with_their_path(
    tmp_path: Path, reader: Callable[[Path], object], damage: str, grey_png: Callable[..., None]
) -> None:
    path = tmp_path / "label.png"
    grey_png(path, VALUES)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[60] ^= 0xFF
    content = {"empty": b"", "text": b"aeroplane", "truncated": whole[:200], "flipped": bytes(flipped)}
    path.write_bytes(content[damage]) if damage in content else path.unlink()
    with pytest.raises(InputError, match=r"label\.png cannot be read \(.+\); restore it"):
        reader(path)


def test_images_are_read_as_stored_whatever_orientation_exif_claims(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    for name in ("turned.png", "turned.jpg"):
        Image.fromarray(PIXELS).save(tmp_path / name, exif=exif)
        assert read_image(tmp_path / name).shape == PIXELS.shape
        assert Image.open(tmp_path / name).getexif()[0x0112] == 6
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), PIXELS)


def test_grey_palette_and_cmyk_images_become_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(PIXELS[:, :, 0])
    grey.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(PIXELS[:, :, :1], 3, axis=2))
    grey.putpalette(PIXELS.reshape(-1)[:768].tobytes())
    grey.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "palette.png"), PIXELS.reshape(-1, 3)[:256][PIXELS[:, :, 0]]
    )
    flat = np.full((16, 24, 3), (200, 40, 90), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    found = read_image(tmp_path / "print.jpg")
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - flat).max() <= 6


def test_pictures_of_16_bits_are_an_error(tmp_path: Path) -> None:
    Image.fromarray(VALUES.astype(np.uint16) * 3000).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep.png has Pillow's mode I;16, wanted 8 bits"):
        read_image(tmp_path / "deep.png")


def test_arrays_can_be_written_to(tmp_path: Path) -> None:
    """torch.from_numpy warns about arrays that cannot."""
    Image.fromarray(VALUES).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").flags.writeable
    assert read_values(tmp_path / "grey.png").flags.writeable


@given(seed=st.integers(0, 2**32 - 1))
def test_silent_error_6_any_table_is_applied_to_every_pixel_once(seed: int) -> None:
    """Cycles (0→1→2→0) come out right, which renaming in place one value after the other would chain."""
    random = np.random.default_rng(seed)
    table = np.arange(256, dtype=np.uint8)
    table[:UNKNOWN] = random.permutation(UNKNOWN)
    values = random.integers(0, UNKNOWN, (7, 11)).astype(np.uint8)
    before = values.copy()
    channels = channels_of(values, table, path=Path("any.png"), allowed="any")
    assert channels.tolist() == [[int(table[value]) for value in row] for row in values.tolist()]
    np.testing.assert_array_equal(values, before)


def test_unknown_values_are_named_with_their_counts_and_never_become_a_class() -> None:
    table = np.full(256, UNKNOWN, np.uint8)
    table[:3] = [2, 0, 1]
    values = np.array([[0, 1, 2], [7, 7, 200]], np.uint8)
    with pytest.raises(
        InputError, match=r"x.png holds the values 7 \(2 px\), 200 \(1 px\), wanted 0–2; restore"
    ):
        channels_of(values, table, path=Path("x.png"), allowed="0–2")
    with pytest.raises(InputError, match=r"the values 3 \(1 px\).* and 2 others, wanted"):
        channels_of(np.arange(13, dtype=np.uint8), table, path=Path("x.png"), allowed="0–2")


def test_silent_error_3_sizes_that_differ_are_an_error_and_nothing_is_resized(
    tmp_path: Path, palette_png: Callable[..., None], sbd_mat: Callable[..., None]
) -> None:
    image = tmp_path / "image.jpg"
    Image.fromarray(PIXELS).save(image)
    for label, write in ((tmp_path / "label.png", palette_png), (tmp_path / "label.mat", sbd_mat)):
        write(label, VALUES)
        assert read_values(label).shape == VALUES.shape
        with pytest.raises(
            InputError, match=rf"image.jpg is 43 × 30 px but its label .*{label.name} is 57 × 41 px"
        ):
            check_sizes(Example("image", image, label))
        write(label, VALUES[:30, :43])
        check_sizes(Example("image", image, label))
    check_sizes(Example("image", image, None))


def test_sbd_labels_come_out_of_the_nested_struct(tmp_path: Path, sbd_mat: Callable[..., None]) -> None:
    sbd_mat(tmp_path / "cls.mat", VALUES)
    found = read_values(tmp_path / "cls.mat")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, VALUES)


@pytest.mark.parametrize(
    "content",
    [
        {"GTinst": {"Segmentation": VALUES}},
        {"GTcls": {"Boundaries": VALUES}},
        {"GTcls": {"Segmentation": VALUES + 0.5}},
        {"GTcls": {"Segmentation": VALUES.astype(np.int16) - 1}},
        {"GTcls": "a word"},
        None,
    ],
)
def test_other_mat_files_are_an_error(tmp_path: Path, content: dict[str, object] | None) -> None:
    io = pytest.importorskip("scipy.io")
    path = tmp_path / "cls.mat"
    if content is None:
        path.write_bytes(b"MATLAB 5.0, cut short")
    else:
        io.savemat(path, content)
    with pytest.raises(
        InputError, match=r"cls\.mat (cannot be read|holds).*GTcls.Segmentation.*benchmark.tgz"
    ):
        read_values(path)


def test_without_scipy_the_extra_is_named(
    tmp_path: Path, sbd_mat: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sbd_mat(tmp_path / "cls.mat", VALUES)
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"cls\.mat needs scipy.*pip install 'aerial-seg\[benchmark\]'"):
        read_values(tmp_path / "cls.mat")
