"""Every format and colour mode against Pillow's own conversion, and what is refused."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, TiffTags

from fcmae.data.decode import BrokenImage, read_image
from fcmae.data.suffixes import looks_like_picture

H, W = 40, 56
Save = Callable[..., Path]


def photo(mode: str) -> Image.Image:
    """A smooth picture, as JPEG likes them."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(noise).resize((W, H), Image.Resampling.BICUBIC)
    return image.convert(mode) if mode in ("RGBA", "LA") else image.convert("RGB").convert(mode)


def as_pillow(path: Path, mode: str) -> torch.Tensor:
    """What Pillow makes of the file, (C, H, W)."""
    array = np.array(ImageOps.exif_transpose(Image.open(path)).convert(mode))
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(image: Image.Image, suffix: str, **options: Any) -> Path:
        image.save(tmp_path / f"image{suffix}", **options)
        return tmp_path / f"image{suffix}"

    return save


def test_a_name_that_is_not_utf_8(save: Save) -> None:
    path = save(photo("RGB"), ".png")
    renamed = path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.png"))
    assert torch.equal(read_image(renamed, 3), as_pillow(renamed, "RGB"))


LOSSLESS = [
    *((".png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
    *((".bmp", mode) for mode in ("1", "L", "P", "RGB")),
    *((".tif", mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK")),
]


@pytest.mark.parametrize(("suffix", "mode"), LOSSLESS)
def test_lossless_formats_are_exactly_pillows(save: Save, suffix: str, mode: str) -> None:
    path = save(photo(mode), suffix)
    assert torch.equal(read_image(path, 3), as_pillow(path, "RGB"))
    assert torch.equal(read_image(path, 1), as_pillow(path, "L"))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_is_pillows_within_what_decoders_differ(save: Save, mode: str) -> None:
    path = save(photo(mode), ".jpg", quality=95)
    torch.testing.assert_close(read_image(path, 3), as_pillow(path, "RGB"), rtol=0, atol=3)
    grey = read_image(path, 1).float() - as_pillow(path, "L").float()
    assert grey.abs().mean() < 1


def test_jpegs_with_unusual_headers_are_read_alike(save: Save) -> None:
    path = save(photo("RGB"), ".jpg", progressive=True, comment=b"c" * 60_000, icc_profile=b"p" * 200_000)
    expected = as_pillow(path, "RGB")
    torch.testing.assert_close(read_image(path, 3), expected, rtol=0, atol=3)
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff" * 3 + content[2:])  # fill bytes, which the standard allows
    torch.testing.assert_close(read_image(path, 3), expected, rtol=0, atol=3)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_is_pillows(save: Save, mode: str, lossless: bool) -> None:
    path = save(photo(mode), ".webp", lossless=lossless)
    torch.testing.assert_close(read_image(path, 3), as_pillow(path, "RGB"), rtol=0, atol=3)
    torch.testing.assert_close(read_image(path, 1), as_pillow(path, "L"), rtol=0, atol=3)


def test_an_animation_gives_its_first_frame(save: Save) -> None:
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue")]
    path = save(frames[0], ".webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(path, 3)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation_is_applied(save: Save, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(photo("RGB"), suffix, exif=exif)
    image = read_image(path, 3)
    assert image.shape == ((3, W, H) if orientation > 4 else (3, H, W))
    torch.testing.assert_close(image, as_pillow(path, "RGB"), rtol=0, atol=3)


@pytest.mark.parametrize("how", ["long", "xmp"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_stored_otherwise_is_applied(save: Save, suffix: str, how: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF>'
    exif = b"Exif\0\0MM\0*\0\0\0\10\0\1\1\x12\0\4\0\0\0\1\0\0\0\6\0\0\0\0"  # LONG, big-endian
    options: dict[str, Any] = {"exif": exif} if how == "long" else {"xmp": xmp}
    if suffix == ".tif":
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info.tagtype[0x0112] = TiffTags.LONG
        info[0x0112] = 6
        options = {"tiffinfo": info}
    elif suffix == ".png" and how == "xmp":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    image = read_image(save(photo("RGB"), suffix, **options), 3)
    upright = torch.from_numpy(np.array(photo("RGB").transpose(Image.Transpose.ROTATE_270)))
    assert (image - upright.permute(2, 0, 1).float()).abs().mean() < 8  # turned otherwise it is 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_files_is_applied(tmp_path: Path, orientation: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = 257 * np.arange(5 * 7, dtype=np.uint16).reshape(5, 7)
    tag = (0x0112, "H", 1, orientation, True)
    photos = Image.fromarray((values // 257).astype(np.uint8))
    photos.getexif()[0x0112] = orientation
    expected = torch.from_numpy(np.array(ImageOps.exif_transpose(photos)))
    for name, array, kind in (
        ("grey.tif", values, "minisblack"),
        ("colour.tif", np.stack([values] * 3, -1), "rgb"),
    ):
        tifffile.imwrite(tmp_path / name, array, photometric=kind, extratags=[tag])
        assert torch.equal(read_image(tmp_path / name, 1)[0], expected)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_four_channels_are_rgba_of_files_that_have_it(save: Save, suffix: str) -> None:
    path = save(photo("RGBA"), suffix, **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    assert torch.equal(read_image(path, 4), as_pillow(path, "RGBA"))


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "RGB"), (".webp", "RGB"), (".jpg", "CMYK")])
def test_transparency_is_not_made_up(save: Save, suffix: str, mode: str) -> None:
    with pytest.raises(BrokenImage, match="no transparency"):
        read_image(save(photo(mode), suffix), 4)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_full_range(save: Save, suffix: str) -> None:
    values = np.arange(H * W, dtype=np.uint16).reshape(H, W) * 29
    path = save(Image.fromarray(values), suffix)
    expected = torch.from_numpy(np.rint(values / 257).astype(np.uint8))
    assert torch.equal(read_image(path, 1)[0], expected)
    assert torch.equal(read_image(path, 3), expected.expand(3, -1, -1))


def write_deep_png(path: Path, values: np.ndarray) -> None:
    """Write (H, W, 3 or 4) of 16 bits, unfiltered; Pillow cannot."""
    height, width, samples = values.shape
    rows = np.zeros((height, 1 + 2 * samples * width), np.uint8)
    rows[:, 1:] = values.astype(">u2").reshape(height, -1).view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[samples], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    packed = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_grey_and_transparency_of_sixteen_bits_keeps_the_lower_ones(
    tmp_path: Path, channels: int
) -> None:
    values = np.random.default_rng(0).integers(30000, 31000, (H, W, 2)).astype(np.uint16)
    write_deep_png(path := tmp_path / "a.png", values)
    expected = np.rint((values.astype(np.float32) - 30000) * (255 / 1000)).astype(np.uint8)
    bands = {1: [0], 2: [0, 1], 3: [0, 0, 0], 4: [0, 0, 0, 1]}[channels]
    found = read_image(path, channels, value_range=(30000, 31000))
    assert torch.equal(found, torch.from_numpy(expected).permute(2, 0, 1)[bands])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_heic_is_pillows_where_its_plugin_is(tmp_path: Path, mode: str) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.from_pillow(photo(mode)).save(tmp_path / "image.heic", quality=90)
    expected = np.asarray(heif.open_heif(tmp_path / "image.heic").to_pillow().convert(mode))
    channels = len(mode)
    found = read_image(tmp_path / "image.heic", channels).permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected.reshape(found.shape))
    (tmp_path / "named").write_bytes((tmp_path / "image.heic").read_bytes())
    assert looks_like_picture((tmp_path / "named").read_bytes()[:12])
    assert np.array_equal(read_image(tmp_path / "named", channels).permute(1, 2, 0).numpy(), found)


@pytest.mark.parametrize("samples", [3, 4])
def test_png_of_sixteen_bits_a_colour_keeps_the_lower_ones(tmp_path: Path, samples: int) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (H, W, samples)).astype(np.uint16)
    write_deep_png(path := tmp_path / "a.png", values)
    expected = torch.from_numpy(np.rint(values.clip(0, 4000) * (255 / 4000)).astype(np.uint8)).permute(
        2, 0, 1
    )
    assert torch.equal(read_image(path, 3, value_range=(0, 4000)), expected[:3])
    if samples == 4:
        assert torch.equal(read_image(path, 4, value_range=(0, 4000)), expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_deep_colour(tmp_path: Path, suffix: str, dtype: type) -> None:
    colours = np.random.default_rng(0).random((H, W, 3))
    values: np.ndarray = (colours * 65535).astype(dtype) if dtype is np.uint16 else colours.astype(dtype)
    if suffix == ".tif":
        pytest.importorskip("tifffile").imwrite(tmp_path / "a.tif", values, photometric="rgb")
    elif dtype is np.uint16:
        write_deep_png(tmp_path / "a.png", values)
    else:
        pytest.skip("no PNG of floats")
    grey = read_image(tmp_path / f"a{suffix}", 1)[0].numpy()
    np.testing.assert_allclose(grey, 255 * colours @ (0.299, 0.587, 0.114), atol=0.51)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_where_zero_means_white_it_is_white(tmp_path: Path, dtype: type, top: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    values: np.ndarray = (np.linspace(0, 1, H * W).reshape(H, W) * top).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    for channels in (1, 3):
        image = read_image(tmp_path / "a.tif", channels)
        np.testing.assert_allclose(image[0], 255 - values * (255 / top), atol=0.51)
    if dtype is np.uint16:
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
        image = read_image(tmp_path / "a.tif", 1, value_range=(0, 4095))
        np.testing.assert_allclose(image[0], 255 - (values * (255 / 4095)).clip(0, 255), atol=0.51)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_sample_without_a_meaning_is_a_band(tmp_path: Path, dtype: type) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 256, (H, W, 4)) * (257 if dtype is np.uint16 else 1)
    tifffile.imwrite(
        tmp_path / "a.tif", values.astype(dtype), photometric="rgb", extrasamples=["unspecified"]
    )
    image = read_image(tmp_path / "a.tif", 4)
    expected = torch.from_numpy((values & 255).astype(np.uint8)).permute(2, 0, 1)  # 257 times v is v twice
    assert torch.equal(image, expected)
    assert torch.equal(read_image(tmp_path / "a.tif", 3), expected[:3])


def test_value_range_spreads_twelve_bits(save: Save) -> None:
    values = np.full((H, W), 2000, np.uint16)
    values[0, :3] = 0, 4095, 60000
    path = save(Image.fromarray(values), ".tif")
    image = read_image(path, 1, value_range=(1000, 3000))[0]
    assert image[0, :3].tolist() == [0, 255, 255]
    assert image[1, 1] == 128


def test_value_range_leaves_eight_bits_alone(save: Save) -> None:
    path = save(photo("L"), ".png")
    assert torch.equal(read_image(path, 1, value_range=(0, 4095)), as_pillow(path, "L"))


def test_pages_of_a_tiff_are_channels(save: Save) -> None:
    pages = [Image.new("I;16", (W, H), 257 * level) for level in (10, 20, 30, 40, 50)]
    path = save(pages[0], ".tif", save_all=True, append_images=pages[1:])
    assert read_image(path, 5)[:, 3, 4].tolist() == [10, 20, 30, 40, 50]
    with pytest.raises(BrokenImage, match="no transparency"):
        read_image(path, 4)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_of_a_tiff_are_channels(tmp_path: Path, planar: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    channels = 5 * np.arange(5 * H * W, dtype=np.uint16).reshape(5, H, W)
    array = channels if planar == "separate" else channels.transpose(1, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig=planar)
    expected = torch.from_numpy(np.rint(channels / 257).astype(np.uint8))
    assert torch.equal(read_image(tmp_path / "a.tif", 5), expected)


def test_colours_of_sixteen_bits_keep_the_lower_ones(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    array = np.full((H, W, 3), 100, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    assert (read_image(tmp_path / "a.tif", 3, value_range=(0, 200)) == 128).all()


@pytest.mark.parametrize(
    ("array", "channels", "expected"),
    [
        (np.full((H, W), 7, np.uint8), 1, 7),
        (np.full((H, W), 7, np.uint8), 3, 7),
        (np.full((H, W, 6), 7, np.uint8), 6, 7),
        (np.full((H, W, 2), 0.5, np.float32), 2, 128),
        (np.full((H, W), True), 1, 255),
        (np.full((H, W, 5), 514, ">u2"), 5, 2),
    ],
)
def test_arrays(tmp_path: Path, array: np.ndarray, channels: int, expected: int) -> None:
    np.save(tmp_path / "a.npy", array)
    image = read_image(tmp_path / "a.npy", channels)
    assert image.shape == (channels, H, W)
    assert image.dtype == torch.uint8
    assert (image == expected).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((H, W, 5)), "has 5 channels, but 3 are wanted, as --network.in-chans says in training$"),
        (np.zeros((5, H, W)), rf"shape \(5, {H}, {W}\): channels come last"),
        (np.zeros((2, H, W, 3)), "shape"),
        (np.zeros((0, W, 3)), "no pixels"),
        (np.full((H, W, 3), 7.0), r"7 to 7, beyond 0 to 1: train with --images.value-range '\[LOW, HIGH\]'"),
        (np.full((H, W, 3), np.nan), "not finite"),
        (
            np.zeros((H, W, 3), np.int32),
            r"0 to 0 of type int32: train with --images.value-range '\[LOW, HIGH\]'",
        ),
        (np.array([[object()]]), "Python objects"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(BrokenImage, match=message):
        read_image(tmp_path / "a.npy", 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".npy"])
def test_damaged_files_are_broken_images(save: Save, tmp_path: Path, suffix: str) -> None:
    if suffix == ".npy":
        np.save(tmp_path / "image.npy", np.zeros((H, W, 3), np.uint8))
    else:
        save(photo("RGB"), suffix)
    path = tmp_path / f"image{suffix}"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:9], b"", b"no image at all"):
        path.write_bytes(damaged)
        with pytest.raises(BrokenImage, match=f"image{suffix}: ."):
            read_image(path, 3)


def test_a_missing_file_is_a_broken_image(tmp_path: Path) -> None:
    with pytest.raises(BrokenImage, match=r"missing\.jpg"):
        read_image(tmp_path / "missing.jpg", 3)


def test_a_large_image_is_refused_by_its_header(tmp_path: Path, save: Save) -> None:
    path = save(photo("RGB"), ".png")
    assert read_image(path, 3, max_pixels=H * W).shape == (3, H, W)
    for large in (path, save(photo("RGB"), ".jpg")):
        with pytest.raises(BrokenImage, match=f"{W} x {H} pixels, more than the"):
            read_image(large, 3, max_pixels=H * W - 1)
    np.lib.format.write_array_header_1_0(
        header := io.BytesIO(), {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    (tmp_path / "bomb.npy").write_bytes(header.getvalue())
    with pytest.raises(BrokenImage):
        read_image(tmp_path / "bomb.npy", 1)


def test_reasons_are_words_and_decoders_do_not_complain_beside_them(
    tmp_path: Path, save: Save, capfd: pytest.CaptureFixture[str]
) -> None:
    content = save(photo("RGB"), ".jpg", quality=90).read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:-100] + bytes(50) + content[-50:])
    read_image(tmp_path / "a.jpg", 3)  # decoders read on after such damage
    content = save(photo("RGB"), ".tif", compression="tiff_lzw").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:8] + bytes(9) + content[17:])
    reasons = []
    for path in (tmp_path / "a.tif", tmp_path / "missing.png", tmp_path):
        with pytest.raises(BrokenImage) as error:
            read_image(path, 3)
        reasons.append(error.value.reason)
    assert reasons[1:] == ["no such file or directory", "is a directory"]
    assert not any("0x" in reason or "Errno" in reason for reason in reasons)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".npy"])
def test_bytes_are_read_as_the_file_that_holds_them(tmp_path: Path, suffix: str) -> None:
    path, array = tmp_path / f"image{suffix}", np.arange(1200, dtype=np.uint8).reshape(20, 20, 3)
    np.save(path, array) if suffix == ".npy" else Image.fromarray(array).save(path)
    expected, content = read_image(path, 3), path.read_bytes()
    path.unlink()
    assert torch.equal(read_image(path, 3, content=content), expected)
