"""What can be wrong with a user's files, and what is said: ROWS is the table of docs/data.md, and each row a test."""

import functools
import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from patchcl import cli
from patchcl.cli import verbs
from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.check import check_data
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.scan import read_image, read_mask, write_mask
from patchcl.data.splits import SplitSettings
from patchcl.training.experiment import start

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
SHAPE = (8, 8, 5)
CLASSES = ("background", "liver", "tumour")
TINY = (
    *("plan.size=[32, 32]", "plan.fit=resize", "plan.dimensions=2", "network.features=[4, 8]", "training.steps=1"),
    *("training.labeled_per_batch=2", "training.unlabeled_per_batch=2", "training.device=cpu"),
)


def image_of(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 1000, SHAPE).astype(np.int16)


def mask_of(name: str) -> np.ndarray:
    return np.random.default_rng([1, *name.encode()]).integers(0, 3, SHAPE).astype(np.uint8)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 8, 1]) if affine is None else affine), path)


def save_itk(path: Path, voxels: np.ndarray, packed: bool = True) -> None:
    simple_itk = pytest.importorskip("SimpleITK")
    simple_itk.WriteImage(simple_itk.GetImageFromArray(voxels.transpose()), str(path), packed)


def save_picture(path: Path, voxels: np.ndarray) -> None:
    pixels = voxels[..., 0]
    Image.fromarray(pixels if pixels.dtype == np.uint8 else 60 * pixels.astype(np.uint16)).save(path)


def save_series(path: Path, voxels: np.ndarray) -> None:
    """Slices 2 mm apart."""
    pytest.importorskip("highdicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    path.mkdir()
    for index in range(SHAPE[2]):
        content = Dataset()
        content.file_meta = FileMetaDataset()
        content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = CTImageStorage
        uid = "1.2." + ".".join(map(str, path.name.encode()))
        content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = f"{uid}.{index + 1}"
        content.SeriesInstanceUID, content.StudyInstanceUID, content.FrameOfReferenceUID = uid, f"{uid}.1", f"{uid}.2"
        content.Modality, content.PatientID, content.PatientName = "CT", "7", "Seven"
        content.ImagePositionPatient, content.ImageOrientationPatient = [0, 0, 2 * index], [1, 0, 0, 0, 1, 0]
        content.PixelSpacing, content.Rows, content.Columns = [1, 1], *SHAPE[:2]
        content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
        content.BitsAllocated, content.BitsStored, content.HighBit, content.PixelRepresentation = 16, 16, 15, 1
        content.add_new("PixelData", "OW", np.ascontiguousarray(voxels[..., index].T).tobytes())
        content.save_as(path / f"{index}.dcm", enforce_file_format=True)


def save_segmentation(path: Path, mask: np.ndarray) -> None:
    write_mask(path, mask, path.parents[1] / "imagesTr" / f"{path.stem}_0000", CLASSES)


WRITERS: dict[str, tuple[str, Callable[..., None], Callable[..., None]]] = {
    ".nii.gz": (".nii.gz", save, save),
    ".nii": (".nii", save, save),
    ".mha": (".mha", save_itk, save_itk),
    ".nrrd": (".nrrd", save_itk, save_itk),
    ".png": (".png", save_picture, save_picture),
    ".tif": (".tif", save_picture, save_picture),
    ".dcm": ("", save_series, save_segmentation),
}
"""Ending of a data set -> that of its images, and who writes images and masks."""


@functools.cache
def sound(ending: str, pool: Path) -> Path:
    """A data set that nothing is wrong with: three patients with masks, one without."""
    root = pool / ending.strip(".")
    of_images, write_image, write_class_mask = WRITERS[ending]
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for name in ("anna", "bert", "carl", "dora"):
        write_image(root / "imagesTr" / f"{name}_0000{of_images}", image_of(name))
        if name != "dora":
            write_class_mask(root / "labelsTr" / f"{name}{ending}", mask_of(name))
    labels = {name: value for value, name in enumerate(CLASSES)}
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sound.cache_clear()
    return tmp_path_factory.mktemp("sound")


def to_image(change: Callable[[np.ndarray], np.ndarray], name: str = "anna") -> Callable[[Path], None]:
    return lambda root: save(root / "imagesTr" / f"{name}_0000.nii.gz", change(image_of(name).astype(np.float32)))


def to_mask(change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> Callable[[Path], None]:
    return lambda root: save(root / "labelsTr" / "anna.nii.gz", change(mask_of("anna")), affine)


def to_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes())) and None


def first_voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        changed = voxels.astype(np.float32)
        changed[0, 0, 0] = value
        return changed

    return change


def shifted(mm: float) -> np.ndarray:
    affine = np.diag([1.5, 1.5, 8, 1])
    affine[0, 3] = mm
    return affine


def wrong_checksum(root: Path) -> None:
    """In a volume that is not read to its end when its header is."""
    path = root / "imagesTr" / "dora_0000.nii.gz"
    save(path, np.random.default_rng(0).integers(0, 1000, (16, 16, 8)).astype(np.int16))
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes(4) + content[-4:])


def huge_nifti(content: bytes) -> bytes:
    """A header of 40 GB: 20,000 × 20,000 × 50 voxels of 2 bytes."""
    header = nib.Nifti1Header(nib.Nifti1Image(image_of("anna"), np.eye(4)).header.binaryblock)
    header.set_data_shape((20_000, 20_000, 50))
    return (
        gzip.compress(header.binaryblock + bytes(100))
        if content[:2] == b"\x1f\x8b"
        else header.binaryblock + content[348:]
    )


def second_channel(root: Path) -> None:
    """Two channels, of which bert has only one."""
    description = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(description | {"channel_names": {"0": "T1", "1": "T2"}}))
    for name in ("anna", "carl", "dora"):
        save(root / "imagesTr" / f"{name}_0001.nii.gz", image_of(name) + image_of("other"))


def channels_apart(root: Path) -> None:
    second_channel(root)
    save(root / "imagesTr" / "bert_0001.nii.gz", image_of("other"), np.diag([1.5, 1.5, 9, 1]))


def two_forms(root: Path) -> None:
    image = nib.Nifti1Image(image_of("anna"), shifted(3))
    image.set_qform(shifted(0), code=1)
    nib.save(image, root / IMAGE)


def copied(new: str) -> Callable[[Path], None]:
    def copy(root: Path) -> None:
        (root / new).parent.mkdir(exist_ok=True)
        shutil.copy(root / "imagesTr" / "anna_0000.nii.gz", root / new)

    return copy


def twice_unlabeled(root: Path) -> None:
    for name in ("eve", "fred"):
        save(root / "imagesTr" / f"{name}_0000.nii.gz", image_of("eve"))


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(root: Path) -> None:
        (root / name).unlink()
        make(root / name)

    return replace


def renamed(root: Path) -> None:
    for folder, rest in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (root / folder / f"anna{rest}").rename(root / folder / f"Zoë Müller [b] 王 #1{rest}")


def colour_map(path: Path, second: int = 255) -> None:
    picture = Image.fromarray(mask_of(path.stem[:4])[..., 0])
    picture.putpalette([0, 0, 0, second, 255 - second, 0, 255 - second, second, 0])
    picture.save(path)


def two_colour_maps(root: Path) -> None:
    colour_map(root / "labelsTr/anna.png")
    colour_map(root / "labelsTr/bert.png", 0)


def fraction_by_slope(root: Path) -> None:
    content = bytearray(gzip.decompress((root / MASK).read_bytes()))
    content[112:116] = np.float32(1 / 255).tobytes()  # where the header has its scl_slope
    (root / MASK).write_bytes(gzip.compress(bytes(content)))


def transparent(path: Path) -> None:
    picture = Image.fromarray(image_of("anna")[..., 0].astype(np.uint8))
    picture.putalpha(Image.fromarray(100 + mask_of("anna")[..., 0]))
    picture.save(path)


def packed_highest_byte_first(path: Path) -> None:
    tifffile.imwrite(path, image_of("anna")[..., 0].astype(np.int32), compression="zlib", byteorder=">")


def many_classes(root: Path) -> None:
    description = json.loads((root / "dataset.json").read_text())
    labels = {"background": 0} | {f"part{value}": value for value in range(1, 300)}
    (root / "dataset.json").write_text(json.dumps(description | {"labels": labels}))


def to_slice(number: int, **fields: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        import pydicom

        path = root / "imagesTr" / "dora_0000" / f"{number}.dcm"
        content = pydicom.dcmread(path)
        for keyword, value in fields.items():
            setattr(content, keyword, value)
        content.save_as(path)

    return change


def tilted(root: Path) -> None:
    for number in range(SHAPE[2]):
        to_slice(number, ImagePositionPatient=[0, 0.5 * number, 2 * number])(root)


def second_series(root: Path) -> None:
    shutil.copy(root / "imagesTr/dora_0000/1.dcm", root / "imagesTr/dora_0000/9.dcm")
    to_slice(9, SeriesInstanceUID="1.9", SeriesDescription="scout")(root)


def second_mask(root: Path) -> None:
    save(root / "labelsTr" / "anna.nii", mask_of("anna"), None)


class Row(NamedTuple):
    """One thing that can be wrong."""

    name: str  # as in the table of the document
    spoil: Callable[[Path], object]
    file: str  # that the message names
    words: str  # that it holds
    ending: str = ".nii.gz"
    kind: str = "problem"  # or a warning, or nothing: it has to work
    alone: bool = True  # nothing else is said


GZ, IMAGE, MASK = ".nii.gz", "imagesTr/anna_0000.nii.gz", "labelsTr/anna.nii.gz"
IMAGE_PNG = "imagesTr/anna_0000.png"
IMAGE_TIFF = "imagesTr/anna_0000.tif"
HYPERSTACK = {"imagej": True, "metadata": {"axes": "ZCYX"}}
ROWS = (
    Row("truncated gzip", to_bytes(IMAGE, lambda content: content[:200]), IMAGE, "cannot be read as a NIfTI image"),
    Row(
        "corrupt gzip", to_bytes(IMAGE, lambda c: c[:150] + b"XXXX" + c[154:]), IMAGE, "cannot be read as a NIfTI image"
    ),
    Row("wrong checksum", wrong_checksum, "dora_0000.nii.gz", "CRC check failed"),
    Row(
        "wrong checksum of a PNG",
        to_bytes("imagesTr/anna_0000.png", lambda c: c.replace(c[-16:-12], b"XXXX")),
        "anna_0000.png",
        "bad header checksum",
        ".png",
    ),
    Row("empty file", to_bytes(MASK, lambda content: b""), MASK, "cannot be read as a NIfTI image"),
    Row(
        "wrong magic",
        to_bytes(IMAGE, lambda content: b"<html>not found</html>"),
        IMAGE,
        "cannot be read as a NIfTI image",
    ),
    Row(
        "truncated volume",
        to_bytes("imagesTr/anna_0000.nii", lambda c: c[:500]),
        "anna_0000.nii",
        "header claims 640 bytes",
        ".nii",
    ),
    Row(
        "truncated NRRD",
        to_bytes("imagesTr/anna_0000.nrrd", lambda c: c[:-90]),
        "anna_0000.nrrd",
        "ends before its last voxel",
        ".nrrd",
    ),
    Row("NaN", to_image(first_voxel(np.nan)), IMAGE, "holds 1 voxels that are NaN or infinite"),
    Row("infinity", to_image(first_voxel(-np.inf)), IMAGE, "holds 1 voxels that are NaN or infinite"),
    Row("one value in every voxel", to_image(np.zeros_like), IMAGE, "holds 0 in every voxel"),
    Row(
        "no spacing",
        to_bytes("imagesTr/anna_0000.nii", lambda c: c[:280] + bytes(48) + c[328:]),
        "anna_0000.nii",
        "no valid spacing",
        ".nii",
    ),
    Row(
        "4-D file",
        lambda root: save(root / IMAGE, np.stack([image_of("anna")] * 2, -1)),
        IMAGE,
        "a slice (2 axes) or a volume (3 axes) was expected",
    ),
    Row("mask of another size", to_mask(lambda mask: mask[:7]), MASK, "has size 7 × 8 × 5, but"),
    Row("mask with another affine", to_mask(np.copy, shifted(0.16)), MASK, "lies up to 0.16 mm away from"),
    Row("qform and sform that differ", two_forms, MASK, "of anna_0000.nii.gz differ by up to 3 mm"),
    Row("mask within a tenth of a voxel", to_mask(np.copy, shifted(0.14)), MASK, "", kind="nothing"),
    Row(
        "unknown class",
        to_mask(first_voxel(7)),
        MASK,
        "holds the value 7, but a mask may only hold whole numbers from 0 to 2",
    ),
    Row("negative class", to_mask(first_voxel(-1)), MASK, "holds the value -1"),
    Row("fractional class", to_mask(first_voxel(0.5)), MASK, "holds the value 0.5"),
    Row("classes with a slope", to_mask(lambda mask: mask * 0.9999), MASK, "", kind="nothing"),
    Row("NaN in a mask", to_mask(first_voxel(np.nan)), MASK, "holds the value nan"),
    Row("whole numbers as floats", to_mask(np.float64), MASK, "", kind="nothing"),
    Row("mask without foreground", to_mask(np.zeros_like), MASK, "holds background only", kind="warning"),
    Row("missing channel", second_channel, "imagesTr/bert_0001.nii.gz", "is missing"),
    Row(
        "channels on different grids", channels_apart, "bert_0001.nii.gz", "lies up to 4 mm away from bert_0000.nii.gz"
    ),
    Row("missing image", lambda root: (root / IMAGE).unlink(), MASK, "has no image"),
    Row(
        "scan of another ending",
        copied("imagesTr/zoe_0000.nii"),
        "imagesTr/zoe_0000.nii",
        "is not used: dataset.json says that names of scans end in .nii.gz",
    ),
    Row("second mask of a scan", second_mask, "labelsTr/anna.nii.gz", "is a mask of the same scan as"),
    Row(
        "name without a channel",
        lambda root: (root / IMAGE).rename(root / "imagesTr/anna.nii.gz"),
        "imagesTr/anna.nii.gz",
        "the name must end in the channel",
        alone=False,
    ),
    Row("one name twice", copied("imagesUn/bert_0000.nii.gz"), "imagesUn/bert", "has the name of a scan in imagesTr"),
    Row("one name in both cases", copied("imagesTr/anna_0000.NII.GZ"), "anna_0000.NII.GZ", "is the same channel as"),
    Row("one image on two sides", copied("imagesTs/eve_0000.nii.gz"), "eve_0000.nii.gz", "are the same image"),
    Row("one image twice on one side", twice_unlabeled, "eve_0000.nii.gz", "They count twice", kind="warning"),
    Row("folder instead of a file", instead(IMAGE, Path.mkdir), IMAGE, "is a folder, but a NIfTI image is a file"),
    Row(
        "symbolic link to itself",
        instead(IMAGE, lambda path: path.symlink_to(path.name)),
        IMAGE,
        "is a link to anna_0000.nii.gz, where no file is",
    ),
    Row(
        "symbolic link to nothing",
        instead(MASK, lambda path: path.symlink_to("gone")),
        MASK,
        "is a link to gone, where no file is",
    ),
    Row("named pipe", instead(IMAGE, os.mkfifo), IMAGE, "is no ordinary file"),
    Row("names with spaces and accents", renamed, "", "", kind="nothing"),
    Row(
        "40 GB in a small file",
        to_bytes("imagesTr/anna_0000.nii", huge_nifti),
        "anna_0000.nii",
        "header claims 40000000000 bytes of voxels",
        ".nii",
    ),
    Row("40 GB in a small gzip", to_bytes(IMAGE, huge_nifti), IMAGE, "header claims 40000000000 bytes of voxels"),
    Row(
        "40 GB in a small MetaImage",
        to_bytes("imagesTr/anna_0000.mha", lambda c: re.sub(rb"DimSize = [\d ]+", b"DimSize = 20000 20000 50", c)),
        "anna_0000.mha",
        "header claims 40000000000 bytes of voxels",
        ".mha",
    ),
    Row(
        "colours for a grey channel",
        lambda root: colour_map(root / "imagesTr/anna_0000.png"),
        "imagesTr/anna",
        "colours count as three channels",
        ".png",
    ),
    Row(
        "mask in colours",
        lambda root: Image.open(root / "labelsTr/anna.png").convert("RGB").save(root / "labelsTr/anna.png"),
        "labelsTr/anna.png",
        "a mask has one number per pixel",
        ".png",
    ),
    Row("mask with a colour map", lambda root: colour_map(root / "labelsTr/anna.png"), "", "", ".png", "nothing"),
    Row("masks with colour maps that differ", two_colour_maps, "labelsTr/bert.png", "colour maps that differ", ".png"),
    Row("class that a slope makes a fraction", fraction_by_slope, MASK, "multiplies what is stored by 0.00392157"),
    Row("16-bit PNG", lambda root: None, "", "", ".png", "nothing"),
    Row("transparent pixels", lambda root: transparent(root / IMAGE_PNG), IMAGE_PNG, "has transparent pixels", ".png"),
    Row(
        "compressed TIFF, highest byte first",
        lambda root: packed_highest_byte_first(root / IMAGE_TIFF),
        "",
        "",
        ".tif",
        "nothing",
    ),
    Row(
        "TIFF of channels and slices",
        lambda root: tifffile.imwrite(root / IMAGE_TIFF, np.zeros((4, 2, 8, 8), np.uint16), **HYPERSTACK),
        IMAGE_TIFF,
        "has pages along other axes than that of slices (4 depth x 2 channel)",
        ".tif",
    ),
    Row("more than 255 classes", many_classes, "dataset.json", "labels has 300 classes, but at most 255 fit"),
    Row("several series in a folder", second_series, "dora_0000", "holds 2 series", ".dcm", alone=False),
    Row(
        "truncated DICOM file",
        to_bytes("imagesTr/dora_0000/1.dcm", lambda content: content[:-20]),
        "dora_0000/1.dcm",
        "It may be incomplete",
        ".dcm",
    ),
    Row(
        "missing slice",
        lambda root: (root / "imagesTr/dora_0000/1.dcm").unlink(),
        "dora_0000",
        "1 slice is missing",
        ".dcm",
    ),
    Row(
        "slice twice",
        lambda root: shutil.copy(root / "imagesTr/dora_0000/1.dcm", root / "imagesTr/dora_0000/copy.dcm"),
        "dora_0000",
        "are copies of one image",
        ".dcm",
    ),
    Row(
        "two slices at one place",
        to_slice(1, ImagePositionPatient=[0, 0, 4]),
        "dora_0000",
        "lie at the same position",
        ".dcm",
    ),
    Row(
        "two orientations",
        to_slice(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "dora_0000",
        "more than one direction",
        ".dcm",
    ),
    Row("tilted gantry", tilted, "dora_0000", "tilted gantry", ".dcm"),
    Row("slice without preamble", to_bytes("imagesTr/dora_0000/1.dcm", lambda c: c[132:]), "", "", ".dcm", "nothing"),
    Row(
        "other files beside slices",
        lambda root: (root / "imagesTr/dora_0000/notes.txt").write_text("x"),
        "imagesTr/dora_0000/notes.txt",
        "is not used: files of a series are DICOM",
        ".dcm",
        kind="warning",
    ),
    Row(
        "masks or scans in a folder below",
        copied("labelsTr/deep/anna.nii.gz"),
        "labelsTr/deep",
        "is not used, with anna.nii.gz in it",
    ),
    Row(
        "file that is no scan",
        lambda root: (root / "imagesTr/notes.txt").write_text("x"),
        "imagesTr/notes.txt",
        "is not used: names of scans end in .nii.gz",
        kind="warning",
    ),
)


def spoilt(row: Row, pool: Path, root: Path) -> Path:
    shutil.copytree(sound(row.ending, pool), root)
    row.spoil(root)
    return root


def found_in(root: Path) -> dict[str, tuple[str, ...]]:
    """What check has to say, its problems and its warnings."""
    split = SplitSettings(seed=0)
    try:
        report = check_data(root, split, PlanSettings())
    except UserError as error:
        return {"problem": tuple(str(error).splitlines()), "warning": ()}
    return {"problem": report.problems, "warning": report.warnings}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_check_says_what_is_wrong(row: Row, pool: Path, tmp_path: Path) -> None:
    root = spoilt(row, pool, tmp_path / "data")
    found = found_in(root)
    if row.kind == "nothing":
        assert found["problem"] == ()
        return
    assert [line for line in found[row.kind] if row.file in line and row.words in line], found
    if row.kind == "warning":
        assert found["problem"] == ()
    assert not row.alone or [line for line in found["problem"] if row.words not in line] == []


def test_the_document_lists_the_same_faults() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.partition("<!-- bad input -->")[2].partition("<!-- end -->")[0]
    listed = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    assert listed == [row.name for row in ROWS] + OTHERS


OTHERS = [
    *("file without permission", "place that cannot be written to", "folder where a mask is to be written"),
    *("link to itself as place to write to", "settings that are no text"),
    *("other files and folders to segment", "other files beside slices to segment"),
    *(
        "structure sets and reports beside slices to segment",
        "a scan whose axes cannot be brought to those of training",
    ),
    "names numbered from `_0001` on to segment",
]
"""What the document lists after ROWS; the tests below are of these."""


@pytest.fixture
def patchcl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the program within this process; gives its exit code and everything it said."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["patchcl", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out + said.err

    return call


@pytest.fixture(scope="module")
def run(pool: Path) -> Path:
    """A finished run of one step."""
    start(sound(".nii.gz", pool), pool / "run", load_settings(None, TINY), Console(quiet=True))
    return pool / "run"


def unfinished(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.startswith(".unfinished")]


def row_called(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def test_faults_of_several_kinds_are_told_at_once(pool: Path, tmp_path: Path, patchcl: Callable) -> None:
    root = spoilt(row_called("missing channel"), pool, tmp_path / "data")
    for name in ("NaN", "unknown class", "one name twice", "name without a channel"):
        row = row_called(name)
        row.spoil(root) if name != "name without a channel" else copied("imagesTr/stray.nii.gz")(root)
    (root / "imagesTr/carl_0001.nii.gz").write_bytes(b"")
    code, said = patchcl("check", root)
    assert code == 2
    assert "Traceback" not in said
    for words in ("bert_0001.nii.gz is missing", "NaN or infinite", "holds the value 7", "imagesUn/bert has the name",
                  "stray.nii.gz: the name must end", "carl_0001.nii.gz cannot be read", "7 problem(s)"):  # fmt: skip
        assert words in said
    assert sorted(path.name for path in root.iterdir()) == ["dataset.json", "imagesTr", "imagesUn", "labelsTr"]


REFUSED = [row for row in ROWS if row.kind == "problem"]


@pytest.mark.parametrize("row", REFUSED, ids=[row.name for row in REFUSED])
def test_training_refuses_before_the_first_step(row: Row, pool: Path, tmp_path: Path) -> None:
    root = spoilt(row, pool, tmp_path / "data")
    settings = load_settings(None, [*TINY, "method.name=mean_teacher"])
    if row.name == "one image on two sides":  # which training may not open
        shutil.move(root / "imagesTs", root / "imagesUn")
        settings = load_settings(None, [*TINY, "split.file=" + str(split_with_validation(root, "anna"))])
    elif row.name not in ("missing image", "name without a channel"):
        settings = load_settings(None, [*TINY, "split.file=" + str(split_with_validation(root, "carl"))])
    with pytest.raises(UserError) as caught:
        start(root, tmp_path / "runs" / "run", settings, Console(quiet=True))
    assert row.words in str(caught.value) or "cannot be opened" in str(caught.value)
    assert not (tmp_path / "runs" / "run").exists()
    assert unfinished(tmp_path) == []


def split_with_validation(root: Path, name: str) -> Path:
    others = sorted({"anna", "bert", "carl"} - {name})
    unlabeled = sorted(
        {path.name[:4].rstrip("_") for folder in ("imagesTr", "imagesUn") for path in (root / folder).glob("*")}
        - {"anna", "bert", "carl"}
    )
    path = root.parent / "split.json"
    path.write_text(json.dumps({"labeled": others, "unlabeled": unlabeled, "validation": [name], "test": []}))
    return path


def test_prediction_does_the_good_ones(run: Path, pool: Path, tmp_path: Path, patchcl: Callable) -> None:
    bad = {
        "truncated": lambda path: path.write_bytes(b"\x1f\x8b" + bytes(20)),
        "empty": Path.touch,
        "folder": Path.mkdir,
        "loop": lambda path: path.symlink_to(path.name),
        "nan": lambda path: save(path, np.full(SHAPE, np.nan, np.float32)),
        "film": lambda path: save(path, np.zeros((8, 8, 4, 2), np.uint8)),
        "pipe": os.mkfifo,
        "[red]odd[bold]": Path.touch,
    }
    scans = tmp_path / "scans"
    scans.mkdir()
    good = ["anna", "Zoë Müller [b] 王 #1"]
    for name in good:
        save(scans / f"{name}_0000.nii.gz", image_of(name))
    for name, make in bad.items():
        path = scans / f"{name}_0000.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    (scans / "other.nii.gz.part").touch()
    (scans / "deeper").mkdir()
    code, said = patchcl("predict", run, scans, "-o", tmp_path / "out")
    assert code == 1
    assert "Traceback" not in said
    assert "Segmented 2 scan(s)" in said
    assert all(f"{name}_0000.nii.gz" in said for name in bad)
    assert "other.nii.gz.part is no scan: its name should end in" in said
    assert "deeper is a folder, but no DICOM series" in said
    names = {f"{name}.nii.gz" for name in good} | {"predictions.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@contextmanager
def without_rights(root: Path) -> Iterator[None]:
    """Root may read everything, and so becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    root.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["imagesTr/anna_0000.nii.gz", "labelsTr/anna.nii.gz"])
def test_a_file_without_permission_is_named(name: str, pool: Path) -> None:
    with TemporaryDirectory() as folder:  # below tmp_path nobody else may look at all
        root = Path(shutil.copytree(sound(".nii.gz", pool), Path(folder) / "data"))
        (root / name).chmod(0)
        (Path(folder) / "runs").mkdir()
        (Path(folder) / "runs").chmod(0o777)
        with without_rights(Path(folder)):
            (line,) = found_in(root)["problem"]
            with pytest.raises(UserError, match=r"may not be read|Permission denied") as caught:
                start(root, Path(folder) / "runs" / "run", load_settings(None, TINY), Console(quiet=True))
        assert f"{name} may not be read by you" in line
        assert name in str(caught.value)
        assert not (Path(folder) / "runs" / "run").exists()


def test_a_place_that_cannot_be_written_to_is_named(run: Path, pool: Path, tmp_path: Path, patchcl: Callable) -> None:
    data, scan = sound(".nii.gz", pool), sound(".nii.gz", pool) / "imagesTr" / "dora_0000.nii.gz"
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    tiny = [part for setting in TINY for part in ("--set", setting)]
    calls = [
        ("predict", run, scan, "-o", "BAD"),
        ("train", data, "-o", "BAD", *tiny),
        ("train", data, "-o", tmp_path / "run", *tiny, "--method", "mean_teacher", "--set", "cache=BAD"),
    ]
    for call in calls:
        for place in (tmp_path / "file" / "below", tmp_path / "loop"):
            code, said = patchcl(*(str(part).replace("BAD", str(place)) for part in call))
            assert code == 2, (call, said)
            assert str(place) in " ".join(said.split())
            assert "Traceback" not in said
            assert not (tmp_path / "run").exists()
    assert unfinished(tmp_path) == []


def test_other_files_beside_slices_are_named_by_prediction(
    run: Path, pool: Path, tmp_path: Path, patchcl: Callable
) -> None:
    shutil.copytree(sound(".dcm", pool) / "imagesTr" / "dora_0000", tmp_path / "scans" / "dora" / "study")
    (tmp_path / "scans" / "dora" / "study" / "notes.txt").write_text("x")
    for arguments in ((tmp_path / "scans" / "dora" / "study",), (tmp_path / "scans", "--series", ".*")):
        code, said = patchcl("predict", run, *arguments, "-o", tmp_path / "out", "--format", "nifti")
        assert code == 1
        assert "Segmented 1 scan(s)" in said
        assert "study/notes.txt is not used: files of a series are DICOM" in said


def test_numbered_and_oblique_scans_and_structure_sets_end_well(
    run: Path, pool: Path, tmp_path: Path, patchcl: Callable
) -> None:
    scans = Path(shutil.copytree(sound(".dcm", pool) / "imagesTr" / "dora_0000", tmp_path / "scans" / "dora")).parent
    import pydicom

    structures = pydicom.dcmread(scans / "dora" / "0.dcm")
    structures.SeriesInstanceUID, structures.Modality = "1.2.9", "RTSTRUCT"
    del structures.Rows, structures.Columns, structures.PixelData
    structures.save_as(scans / "dora" / "structures.dcm")
    save(scans / "x_0001.nii.gz", image_of("anna"))
    save(
        scans / "x_0002.nii.gz",
        image_of("bert"),
        np.array([[1.1, -1, 0, 0], [1, 1.1, 0, 0], [0, 0, 8, 0], [0, 0, 0, 1]]),
    )
    code, said = patchcl("predict", run, scans, "-o", tmp_path / "out")
    assert (code, "Segmented 3 scan(s)" in said) == (0, True), said
    assert f"Note: {scans}/dora/structures.dcm is not used: DICOM without an image" in said
    assert re.search(r"x_0002 is unlike .*oblique by more than 37°, so its axes stay as they are stored", said)
    assert "x_0001 is unlike" not in said


def test_a_full_disk_is_one_message(patchcl: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr(verbs, "app", fail)
    code, said = patchcl("report")
    assert code == 2
    assert "report.html cannot be written or read: No space left on device" in " ".join(said.split())


def test_a_folder_where_a_mask_is_to_be_written_is_told(
    run: Path, pool: Path, tmp_path: Path, patchcl: Callable
) -> None:
    (tmp_path / "out" / "bert.nii.gz").mkdir(parents=True)
    code, said = patchcl("predict", run, sound(".nii.gz", pool) / "imagesTr", "-o", tmp_path / "out")
    assert code == 1
    assert "Segmented 3 scan(s)" in said
    assert f"bert cannot be written to {tmp_path / 'out'}: Is a directory" in said
    masks = {f"{name}.nii.gz" for name in ("anna", "bert", "carl", "dora")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == masks | {"predictions.csv"}


@pytest.mark.parametrize("option", ["--config", "--plan", "--split"])
def test_settings_that_are_no_text_are_named(option: str, pool: Path, tmp_path: Path, patchcl: Callable) -> None:
    (tmp_path / "settings").write_bytes(b"\xff\xfe\x00binary")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("settings", "loop", "gone"):
        code, said = patchcl("check", sound(".nii.gz", pool), option, tmp_path / name)
        assert code == 2
        assert str(tmp_path / name) in " ".join(said.split())
        assert "Traceback" not in said


def test_what_must_work_is_read_exactly(pool: Path, tmp_path: Path) -> None:
    root = spoilt(row_called("mask with a colour map"), pool, tmp_path / "png")
    np.testing.assert_array_equal(read_mask(root / "labelsTr/anna.png", CLASSES), mask_of("anna")[..., 0])
    deep = read_image([root / "imagesTr/bert_0000.png"]).voxels[0]
    np.testing.assert_array_equal(deep, 60.0 * image_of("bert")[..., 0])
    assert deep.max() > 255
    root = spoilt(row_called("compressed TIFF, highest byte first"), pool, tmp_path / "tif")
    np.testing.assert_array_equal(read_image([root / IMAGE_TIFF]).voxels[0], image_of("anna")[..., 0])


@pytest.mark.parametrize(("ending", "of_mask"), [(".dcm", ".nii.gz"), (".mha", ".nii.gz"), (".nii.gz", ".nii")])
def test_masks_may_come_in_another_format_than_their_scans(
    ending: str, of_mask: str, pool: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(sound(ending, pool), tmp_path / "data"))
    for name in ("anna", "bert", "carl"):
        (root / "labelsTr" / f"{name}{ending}").unlink()
        image = root / "imagesTr" / f"{name}_0000{WRITERS[ending][0]}"
        write_mask(root / "labelsTr" / f"{name}{of_mask}", mask_of(name), image)
    report = check_data(root, SplitSettings(), PlanSettings())
    assert report.problems == ()
    assert {side: scans for side, (_, scans) in report.sides.items()} == {
        "labeled": 2,
        "unlabeled": 1,
        "validation": 1,
        "test": 0,
    }
    shares = np.bincount(np.concatenate([mask_of(name).ravel() for name in report.split.labeled]), minlength=3)
    assert list(report.class_fractions.values()) == pytest.approx(list(shares / shares.sum()))
