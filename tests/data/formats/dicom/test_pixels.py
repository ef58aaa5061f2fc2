import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom import series as dicom

pydicom = pytest.importorskip("pydicom")
RANDOM = np.random.default_rng(0)
VOLUME = RANDOM.integers(-1000, 2000, (5, 4, 6)).astype(np.int16)
Make = Callable[..., Any]


def test_every_slice_is_rescaled_by_its_own_numbers(write_series: Make, change: Make) -> None:
    folder = write_series(VOLUME.astype(np.uint16) % 1000)
    for index in range(6):
        change(folder / f"slice{index:03d}.dcm", RescaleSlope=0.5 + index, RescaleIntercept=-index)
    expected = (VOLUME.astype(np.uint16) % 1000) * (0.5 + np.arange(6)) - np.arange(6)
    np.testing.assert_array_equal(dicom.read_values(folder)[0], expected.astype(np.float32))


def test_whole_offsets_keep_whole_numbers(write_series: Make) -> None:
    folder = write_series(np.full((2, 3, 2), 65535, np.uint16), RescaleIntercept="-1024", RescaleSlope="1")
    values = dicom.read_values(folder)
    assert values.dtype == np.int32
    assert (values == 64511).all()


@pytest.mark.parametrize(("dtype", "bright"), [(np.uint16, 4095), (np.int16, -1)])
def test_monochrome1_is_turned_round(write_series: Make, dtype: type, bright: int) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    folder = write_series(values, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(dicom.read_values(folder)[0], bright - values.astype(int))


def test_compressed_pixels_are_exact(write_series: Make) -> None:
    folder = write_series(VOLUME)
    for path in folder.iterdir():
        content = pydicom.dcmread(path)
        content.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        content.save_as(path)
    np.testing.assert_array_equal(dicom.read_values(folder)[0], VOLUME)


def transcoded(path: Path, syntax: str, implicit: bool = False, little: bool = True) -> None:
    content = pydicom.dcmread(path)
    content.file_meta.TransferSyntaxUID = syntax
    if not little:
        content.PixelData = np.frombuffer(content.PixelData, "<i2").astype(">i2").tobytes()
    pydicom.dcmwrite(path, content, implicit_vr=implicit, little_endian=little, enforce_file_format=True)


def as_jpeg_2000(path: Path, syntax: str) -> None:
    content, packed = pydicom.dcmread(path), io.BytesIO()
    Image.fromarray((content.pixel_array + 1000).astype(np.uint16)).save(packed, "JPEG2000", no_jp2=True)
    content.PixelRepresentation, content.RescaleIntercept, content.RescaleSlope = 0, -1000, 1
    content.PixelData = pydicom.encaps.encapsulate([packed.getvalue()])
    content["PixelData"].VR, content.file_meta.TransferSyntaxUID = "OB", syntax
    content.save_as(path)


@pytest.mark.parametrize(
    ("syntax", "write"),
    [
        ("ImplicitVRLittleEndian", lambda path, syntax: transcoded(path, syntax, implicit=True)),
        ("DeflatedExplicitVRLittleEndian", transcoded),
        ("ExplicitVRBigEndian", lambda path, syntax: transcoded(path, syntax, little=False)),
        ("JPEG2000Lossless", as_jpeg_2000),
    ],
)
def test_every_way_to_send_a_file_gives_the_same_numbers(
    write_series: Make, syntax: str, write: Callable[[Path, str], None]
) -> None:
    if syntax == "JPEG2000Lossless" and not features.check("jpg_2000"):
        pytest.skip("this Pillow writes no JPEG 2000")
    folder = write_series(VOLUME)
    for path in folder.iterdir():
        write(path, getattr(pydicom.uid, syntax))
    np.testing.assert_array_equal(dicom.read_values(folder)[0], VOLUME)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_that_are_stored_are_no_part_of_a_number(write_series: Make, signed: bool) -> None:
    """Old files have overlays there, and signed numbers come without the bits of their sign."""
    values = np.linspace(-2048 if signed else 0, 2047 if signed else 4095, 24).astype(np.int16).reshape(2, 3, 4)
    above = RANDOM.integers(0, 16, values.shape).astype(np.uint16) << 12
    stored = (values.astype(np.uint16) & 0x0FFF) | above
    folder = write_series(stored, BitsStored=12, HighBit=11, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(dicom.read_values(folder)[0], values)


def test_an_unknown_compression_names_what_reads_it(
    write_series: Make, change: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_series(VOLUME) / "slice003.dcm"
    content = pydicom.dcmread(path)
    content.PixelData = pydicom.encaps.encapsulate([content.PixelData])
    content["PixelData"].is_undefined_length = True
    for syntax, plugin in {
        pydicom.uid.JPEGLosslessSV1: "pip install pylibjpeg pylibjpeg-libjpeg",
        pydicom.uid.HTJ2KLossless: "pip install pylibjpeg pylibjpeg-openjpeg",
        pydicom.uid.JPEGLSLossless: "pip install pyjpegls",
        pydicom.uid.MPEG2MPML: "MPEG2.* which is not read",
    }.items():
        content.file_meta.TransferSyntaxUID = syntax
        content.save_as(path)
        monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
        with pytest.raises(UserError, match=rf"slice003\.dcm is compressed as .*{plugin}"):
            dicom.read_values(path)


def test_lookup_tables_are_refused(write_series: Make, change: Make) -> None:
    folder = write_series(VOLUME)
    change(folder / "slice000.dcm", ModalityLUTSequence=[pydicom.Dataset()])
    with pytest.raises(UserError, match="lookup table"):
        dicom.read_values(folder)
