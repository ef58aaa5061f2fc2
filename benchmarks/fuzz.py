"""What becomes of damaged files? Bytes of sound ones are flipped, cut, put in and set to extremes, then they are read.

    python benchmarks/fuzz.py              # 400 cases of each of 13 formats, about 5 minutes on 2 cores
    python benchmarks/fuzz.py --formats png --first 17 --cases 1 --keep FOLDER       # one case again, and its files
    python benchmarks/fuzz.py --real DATA  # the same done to real files: data sets and samples of scans in one folder

Either a file is refused with a message for its user, or it is read: then its voxels are finite numbers in the shape
that its header claims, and every checksum in it holds. All else is a failure: another error, a crash, more than
SECONDS, or memory asked for that the file cannot fill. Each format is read in a process of its own, under a limit of
memory, and number and format of a case are all that its damage depends on.

Of the real files of each data set, and of each folder of samples, the smallest SEEDS are damaged in turn. Every
other case damages what lies behind the checksum and corrects the checksum, or hardly more than that would be tested.
"""

import argparse
import gzip
import io
import json
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.data.dataset import Case, read_dataset
from patchcl.data.formats.dicom import contours
from patchcl.data.formats.dicom import segmentation as dicom_seg
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.formats.dicom.frames import read_header
from patchcl.data.importers import arrays
from patchcl.data.scan import read_grid, read_image, read_mask, write_mask

RESULTS = Path(__file__).parent / "results"
FORMATS = (
    *("nii", "nii.gz", "mha", "nrrd", "png", "tif", "dicom", "dicom_seg", "gif", "webp"),
    *("h5", "npz", "rtstruct"),
)
ARRAYS = (".h5", ".npz")
"""Endings of what is imported and never read in place."""
CLASSES = ("background", "liver", "tumour")
SHAPE = (8, 7, 4)
SECONDS = 10
"""What a small file may take at the most."""
SEEDS = 10
"""So many scans of a data set, the smallest files, are damaged."""
MEMORY = 1 << 30
"""Bytes that a process may ask for beyond what it has once it can read."""
EXTREMES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01")
NUMBERS = (b"0", b"-1", b"99999999999", b"nan", b"inf", b"1e300", b"1e-300", b"")


class Sound(NamedTuple):
    """Files that can be read."""

    image: Path | None  # a DICOM series is a folder
    mask: Path | None
    scan: Path | None = None  # that a mask by names refers to
    classes: Sequence[str] = CLASSES
    contours: bool = False  # whether the mask is an RTSTRUCT


class Ending(NamedTuple):
    """What became of one case."""

    case: int
    outcome: str  # read, refused, or failed
    what: str  # the damage, and what was said


def main() -> None:
    """Run all cases, keep and print what became of them; failures make the exit code 1."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--formats", nargs="+", help="those to do; with --real, names of data sets")
    arguments.add_argument("--cases", type=int, default=400, help="of every format")
    arguments.add_argument("--real", type=Path, help="a folder with data sets and samples, whose files are damaged")
    arguments.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="where the counts go")
    arguments.add_argument("--keep", type=Path, help="a folder for the damaged files; nothing is written to --results")
    arguments.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.work:
        work(chosen.formats[0], range(chosen.first, chosen.first + chosen.cases), chosen.keep, chosen.real)
        return
    started = time.perf_counter()
    kinds = chosen.formats or (FORMATS if chosen.real is None else sorted(real_seeds(chosen.real)))
    options = [
        option for name in ("keep", "real") if getattr(chosen, name) for option in (f"--{name}", getattr(chosen, name))
    ]
    found = {kind: list(endings_of(kind, chosen.first, chosen.cases, options)) for kind in kinds}
    failures = [(kind, ending) for kind, endings in found.items() for ending in endings if ending.outcome == "failed"]
    for kind, ending in failures:
        sys.stdout.write(f"{kind} {ending.case}: {ending.what}\n")
    sys.stdout.write(table(found))
    if chosen.keep is None:
        keep_result(chosen.results / "fuzz.json", content(found, time.perf_counter() - started), chosen.real)
    sys.exit(1 if failures else 0)


def keep_result(path: Path, result: dict[str, object], real: Path | None) -> None:
    """Write what was found of made-up files, or of `real` ones beside it: the one leaves the other alone."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if real is None:
        write_json(path, result | {key: known[key] for key in ("real",) if key in known})
        return
    words = json.dumps(result, ensure_ascii=False).replace(str(real), "DATA")  # where it lies is nobody's business
    write_json(path, known | {"real": json.loads(words)})


def endings_of(kind: str, first: int, cases: int, passed_on: Sequence[object]) -> Iterator[Ending]:
    """What becomes of `cases` files of one format; a process that dies is a failure, and another goes on."""
    place, end = first, first + cases
    while place < end:
        options = ["--formats", kind, "--first", str(place), "--cases", str(end - place)]
        command = [sys.executable, __file__, "--work", *options, *map(str, passed_on)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
            for line in worker.stdout or ():
                yield Ending(*json.loads(line))
                place += 1
        if place < end:
            why = f"took over {SECONDS} s" if worker.returncode == -signal.SIGALRM else f"died ({worker.returncode})"
            yield Ending(place, "failed", why)
            place += 1


def work(kind: str, cases: Sequence[int], keep: Path | None, real: Path | None = None) -> None:
    """Damage and read one file after another, a line of JSON for each."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        seeds = real_seeds(real)[kind] if real else [write_sound(Path(folder) / "sound", kind)]
        for sound in seeds:
            read(sound)  # so that all libraries are loaded
        used = int(re.findall(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[0]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        for case in cases:
            signal.alarm(SECONDS)
            place = (keep or Path(folder)) / f"{kind}-{case}"
            ending = one_case(seeds[case % len(seeds)], kind, case, place)
            signal.alarm(0)
            sys.stdout.write(json.dumps(ending) + "\n")
            sys.stdout.flush()
            if keep is None:
                shutil.rmtree(place)


def one_case(sound: Sound, kind: str, case: int, folder: Path) -> Ending:
    """Damage a copy of the sound files in `folder` as the number `case` says, and read it."""
    real = kind not in FORMATS
    generator = np.random.default_rng([case, zlib.crc32(kind.encode()) if real else FORMATS.index(kind)])
    damaged, path, what = damaged_copy(sound, generator, folder, (real or kind == "npz") and generator.random() < 0.5)
    try:
        read(damaged)
    except UserError as error:
        wasteful = isinstance(error.__cause__, MemoryError) or re.search(
            "(?i)(?<!end of )allocat(e |ion)|bad_alloc", str(error)
        )
        message = str(error).replace(str(folder), "")
        return Ending(case, "failed" if wasteful else "refused", f"{what}: {message}")
    except Exception as error:
        return Ending(case, "failed", f"{what}: {type(error).__name__}: {error}".replace(str(folder), ""))
    wrong = not checksums_hold(path)
    return Ending(case, "failed" if wrong else "read", what + (": read despite a wrong checksum" if wrong else ""))


def read(files: Sound) -> None:
    """Read what there is, as the verbs do.

    Raises:
        UserError: It is refused.
        ValueError: What was read cannot be true.
    """
    if files.image is not None and files.image.suffix in ARRAYS:
        read_arrays(files.image)
    elif files.image is not None:
        grid, scan = read_grid(files.image), read_image([files.image])
        _require(np.isfinite(grid.affine).all() and np.isfinite(grid.spacing_mm).all(), "the grid is not finite")
        _require(scan.voxels.shape[1:] == grid.shape == scan.grid.shape, "the shape is not what the header claims")
        _require(bool(np.isfinite(scan.voxels).all()), "voxels are not finite")
    if files.mask is not None and files.contours:
        grid = read_grid(files.scan or files.mask)
        mask = contours.painted(contours.read_structure_set(files.mask), grid, files.classes, in_order=True)
        _require(mask.shape == grid.shape and int(mask.max()) < len(files.classes), "the mask is none")
    elif files.mask is not None:
        grid = read_grid(files.scan or files.mask)
        mask = read_mask(files.mask, files.classes, grid if files.scan else None)
        _require(mask.shape == grid.shape, "the shape is not what the header claims")
        _require(int(mask.max()) < len(files.classes), "the mask holds what is no class")


def read_arrays(path: Path) -> None:
    """Import the arrays in the file `path`, which is alone in its folder.

    Raises:
        UserError: It is refused.
        ValueError: What was written cannot be true.
    """
    with tempfile.TemporaryDirectory() as folder:
        image, mask = Path(folder) / "image.nii.gz", Path(folder) / "mask.nii.gz"
        (scan,) = arrays.convert(path.parent).scans
        scan.images[0](image)
        grid, voxels = read_grid(image), read_image([image]).voxels
        _require(voxels.shape[1:] == grid.shape and bool(np.isfinite(voxels).all()), "voxels are not finite")
        if scan.mask is not None:
            values = scan.mask(mask)
            _require(set(np.unique(read_mask(mask, 256, grid)).tolist()) == values, "the mask holds other values")


def checksums_hold(path: Path) -> bool:
    """Whether the sums in a file are those of its content, by other means than the package reads with."""
    content = path.read_bytes()
    if path.name.endswith(".nii.gz"):
        try:
            gzip.GzipFile(fileobj=io.BytesIO(content)).read()
        except (OSError, EOFError, zlib.error):
            return False
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        except (zipfile.BadZipFile, zlib.error, EOFError):
            return False
    if path.suffix == ".png":
        place = 8
        while content[place + 4 : place + 8] != b"IEND":
            (length,) = struct.unpack(">I", content[place : place + 4])
            body, stored = content[place + 4 : place + 8 + length], content[place + 8 + length : place + 12 + length]
            if len(stored) < 4 or (body[:1].isupper() and struct.unpack(">I", stored)[0] != zlib.crc32(body)):
                return False
            place += 12 + length
    return True


def damaged_copy(
    sound: Sound, generator: np.random.Generator, folder: Path, behind: bool = False
) -> tuple[Sound, Path, str]:
    """A copy below `folder` with one file spoilt, `behind` its checksum: the copy, that file, what was done to it."""
    spoilt = [path for path in (sound.image, sound.mask) if path is not None]
    chosen = spoilt[generator.integers(len(spoilt))]
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / chosen.name
    if chosen.is_dir():
        copy.mkdir()
        files = [Path(shutil.copyfile(file, copy / file.name)) for file in sorted(chosen.iterdir())]
        path = files[generator.integers(len(files))]
    else:
        path = Path(shutil.copyfile(chosen, copy))
    content, what = (damaged_behind if behind else damaged)(path.read_bytes(), generator)
    path.write_bytes(content)
    copies = sound._replace(image=copy if chosen == sound.image else None, mask=copy if chosen == sound.mask else None)
    return copies, path, f"{path.relative_to(folder)}, {what}"


def damaged(content: bytes, generator: np.random.Generator) -> tuple[bytes, str]:
    """`content` with one fault, and its name."""
    ways: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (_flipped, _cut, _filled, _extreme, _renumbered)
    way = ways[generator.integers(len(ways))]
    return way(content, generator), way.__name__.removeprefix("_")


def damaged_behind(content: bytes, generator: np.random.Generator) -> tuple[bytes, str]:
    """`content` with one fault that no checksum of gzip, of a file in ZIP or of a chunk of PNG tells."""
    if content.startswith(b"PK"):
        return _damaged_member(content, generator)
    if content.startswith(b"\x1f\x8b"):
        within, what = damaged(gzip.decompress(content), generator)
        return gzip.compress(within, 1, mtime=0), f"{what} behind the checksum"
    spoilt, what = damaged(content, generator)
    if not content.startswith(b"\x89PNG"):
        return spoilt, what
    return _with_sums(spoilt), f"{what} behind the checksum"


def _damaged_member(archive: bytes, generator: np.random.Generator) -> tuple[bytes, str]:
    """A ZIP with one fault in one of its files, and sums that agree."""
    with zipfile.ZipFile(io.BytesIO(archive)) as sound:
        members = {name: sound.read(name) for name in sound.namelist()}
    chosen = sorted(members)[generator.integers(len(members))]
    members[chosen], what = damaged(members[chosen], generator)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as spoilt:
        for name, content in members.items():
            spoilt.writestr(name, content)
    return made.getvalue(), f"{what} behind the checksum of {chosen}"


def _with_sums(png: bytes) -> bytes:
    """The chunks of a PNG with the sums that they should have, as far as their lengths lead."""
    changed, place = bytearray(png), 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(png):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(png[place + 4 : end]))
        place = end + 4
    return bytes(changed)


def _flipped(content: bytes, generator: np.random.Generator) -> bytes:
    """Up to four bits are others."""
    changed = bytearray(content)
    for _ in range(generator.integers(1, 5)):
        changed[_place(content, generator)] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _cut(content: bytes, generator: np.random.Generator) -> bytes:
    """The end is missing, or a piece from within."""
    place = _place(content, generator)
    length = len(content) if generator.random() < 0.5 else int(generator.integers(1, 32))
    return content[:place] + content[place + length :]


def _filled(content: bytes, generator: np.random.Generator) -> bytes:
    """Up to 32 strange bytes are put in."""
    place = _place(content, generator)
    return content[:place] + generator.bytes(int(generator.integers(1, 33))) + content[place:]


def _extreme(content: bytes, generator: np.random.Generator) -> bytes:
    """A field of the header is as small or as large as it can be."""
    place, width = _place(content, generator, header=True), int(2 ** generator.integers(4))
    value = EXTREMES[generator.integers(len(EXTREMES))] * width
    return content[:place] + value + content[place + width :]


def _renumbered(content: bytes, generator: np.random.Generator) -> bytes:
    """A number that is written in digits is another; in files without such, a field is extreme."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content[:1500]))
    if not found:
        return _extreme(content, generator)
    number = found[generator.integers(len(found))]
    return content[: number.start()] + NUMBERS[generator.integers(len(NUMBERS))] + content[number.end() :]


def _place(content: bytes, generator: np.random.Generator, header: bool = False) -> int:
    """Anywhere, and every other time where a header is."""
    near = min(len(content), 400)
    return int(generator.integers(near if header or generator.random() < 0.5 else len(content)))


def real_seeds(root: Path) -> dict[str, list[Sound]]:
    """The scans in the folder `root` that are damaged, by the name of their data set or of their folder of samples."""
    sets = {path.parent.name: _smallest(path.parent) for path in sorted(root.glob("*/dataset.json"))}
    folders = [path for path in sorted((root / "samples").glob("*")) if path.is_dir()]
    samples = {f"{folder.name} sample": [_sample(path) for path in sorted(folder.iterdir())] for folder in folders}
    return sets | samples


def _smallest(root: Path) -> list[Sound]:
    """The scans with masks of a data set whose files are smallest."""

    def size(case: Case) -> int:
        return sum(path.stat().st_size for path in (*case.images, case.mask) if path is not None)

    dataset = read_dataset(root)
    cases = sorted((case for case in dataset.cases if case.mask is not None), key=size)
    return [Sound(case.images[0], case.mask, classes=dataset.classes) for case in cases[:SEEDS]]


def _sample(path: Path) -> Sound:
    """A scan, or a segmentation of the DICOM series beside it."""
    if path.is_dir() or not path.name.endswith(".dcm") or not dicom_seg.is_segmentation(path):
        return Sound(path, None)
    (series,) = (beside for beside in path.parent.iterdir() if dicom.is_series_folder(beside))
    labels = dicom_seg.labels_of(path, read_header(path))
    return Sound(None, path, series, ("background", *labels.values()))


def write_sound(folder: Path, kind: str) -> Sound:
    """An image and a mask of one format that nothing is wrong with."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    image = generator.integers(-1000, 2000, SHAPE).astype(np.int16)
    mask = generator.integers(0, len(CLASSES), SHAPE).astype(np.uint8)
    if kind in ("nii", "nii.gz"):
        return Sound(_nifti(folder / f"image.{kind}", image), _nifti(folder / f"mask.{kind}", mask))
    if kind in ("mha", "nrrd"):
        return Sound(_itk(folder / f"image.{kind}", image, True), _itk(folder / f"mask.{kind}", mask, False))
    if kind in ("png", "tif", "gif", "webp"):
        return _pictures(folder, kind, np.abs(image).astype(np.uint16), mask)
    if kind in ("h5", "npz"):
        return Sound(_arrays(folder / f"arrays.{kind}", image, mask), None)
    series = _series(folder / "series", image)
    if kind == "dicom":
        return Sound(series, None)
    if kind == "rtstruct":
        return Sound(None, _structures(folder / "structures.dcm"), series, contours=True)
    write_mask(folder / "mask.dcm", mask, series, CLASSES)
    return Sound(None, folder / "mask.dcm", series)


def _nifti(path: Path, voxels: np.ndarray) -> Path:
    image = nib.Nifti1Image(voxels, np.array([[-1.2, 0.3, 0, 9], [0.3, 1.2, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1.0]]))
    nib.save(image, path)
    return path


def _itk(path: Path, voxels: np.ndarray, packed: bool) -> Path:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(voxels.transpose())
    image.SetSpacing((1.5, 1.25, 3.0))
    SimpleITK.WriteImage(image, str(path), packed)
    return path


def _pictures(folder: Path, kind: str, image: np.ndarray, mask: np.ndarray) -> Sound:
    paths = folder / f"image.{kind}", folder / f"mask.{kind}"
    drawn = Image.fromarray(mask[..., 0])
    if kind == "png":
        Image.fromarray(image[..., 0]).save(paths[0])
        drawn.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        drawn.save(paths[1])
    elif kind in ("gif", "webp"):
        for path, values in zip(paths, ((image[..., 0] // 8).astype(np.uint8), mask[..., 0]), strict=True):
            Image.fromarray(values).save(path, **({"lossless": True} if kind == "webp" else {}))
    else:
        pages = [Image.fromarray(np.ascontiguousarray(image[..., page])) for page in range(image.shape[2])]
        pages[0].save(paths[0], save_all=True, append_images=pages[1:], compression="tiff_adobe_deflate")
        drawn.save(paths[1])
    return Sound(*paths)


def _arrays(path: Path, image: np.ndarray, mask: np.ndarray) -> Path:
    """An image as it is, and a packed mask."""
    if path.suffix == ".npz":
        np.savez_compressed(path, image=image, label=mask)
        return path
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=image)
        file.create_dataset("label", data=mask, compression="gzip")
    return path


def _structures(path: Path) -> Path:
    """Two structures drawn on every slice of `_series`."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

    def item(**fields: object) -> Dataset:
        made = Dataset()
        for keyword, value in fields.items():
            setattr(made, keyword, value)
        return made

    content = item(SOPClassUID=RTStructureSetStorage, SOPInstanceUID="1.2.3.7.1", Modality="RTSTRUCT")
    content.file_meta = FileMetaDataset()
    content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content.file_meta.MediaStorageSOPClassUID, content.file_meta.MediaStorageSOPInstanceUID = (
        content.SOPClassUID,
        content.SOPInstanceUID,
    )
    content.StudyInstanceUID, content.SeriesInstanceUID, content.StructureSetLabel = "1.2.3", "1.2.3.7", "plan"
    study = item(RTReferencedSeriesSequence=[item(SeriesInstanceUID="1.2.3.4")])
    content.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID="1.2.3.5", RTReferencedStudySequence=[study])
    ]
    content.StructureSetROISequence = [
        item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID="1.2.3.5")
        for number, name in enumerate(CLASSES[1:], start=1)
    ]
    content.ROIContourSequence = [
        item(ReferencedROINumber=number, ContourSequence=[_contour(item, number, index) for index in range(SHAPE[2])])
        for number in (1, 2)
    ]
    content.save_as(path, enforce_file_format=True)
    return path


def _contour(item: Callable[..., object], number: int, index: int) -> object:
    """A box in a slice, each structure in another half."""
    left, right, height = 1.2 + 5 * (number - 1), 4.9 + 5 * (number - 1), 3.0 * index
    corners = [(left, 1.4), (right, 1.4), (right, 6.8), (left, 6.8)]
    data = [f"{value:.6g}" for x, y in corners for value in (x, y, height)]
    return item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(corners), ContourData=data)


def _series(folder: Path, voxels: np.ndarray) -> Path:
    """A DICOM series, one file per slice."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir()
    for index in range(voxels.shape[2]):
        pixels = np.ascontiguousarray(voxels[..., index].T)
        content = Dataset()
        content.file_meta = FileMetaDataset()
        content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = CTImageStorage
        content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = f"1.2.3.4.{index + 1}"
        content.StudyInstanceUID, content.SeriesInstanceUID, content.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
        content.Modality, content.PatientID, content.PatientName = "CT", "7", "Seven"
        content.ImagePositionPatient, content.ImageOrientationPatient = [0, 0, 3 * index], [1, 0, 0, 0, 1, 0]
        content.PixelSpacing, content.SliceThickness = [1.5, 1.25], 3
        content.Rows, content.Columns = pixels.shape
        content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
        content.BitsAllocated, content.BitsStored, content.HighBit, content.PixelRepresentation = 16, 16, 15, 1
        content.RescaleSlope, content.RescaleIntercept = 1, -3
        content.add_new("PixelData", "OW", pixels.tobytes())
        content.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    return folder


def content(found: dict[str, list[Ending]], seconds: float) -> dict[str, object]:
    """What is kept: counts by format and outcome, the failures, and where they come from."""
    import torch

    from patchcl.runs.provenance import origin

    versions = {
        name: _version(name)
        for name in ("numpy", "nibabel", "pillow", "tifffile", "SimpleITK", "pydicom", "highdicom", "h5py")
    }
    return {
        "origin": json.loads(json.dumps(origin(torch.device("cpu")))) | {"versions": versions},
        "seconds": round(seconds, 1),
        "limits": {"seconds": SECONDS, "memory_bytes": MEMORY},
        "cases": sum(map(len, found.values())),
        "outcomes": {kind: _counts(endings) for kind, endings in found.items()},
        "failures": [[kind, *ending] for kind, endings in found.items() for ending in endings if ending[1] == "failed"],
    }


def table(found: dict[str, list[Ending]]) -> str:
    """Formats as rows, outcomes as columns."""
    rows = [f"| {kind} | {' | '.join(map(str, _counts(endings).values()))} |" for kind, endings in found.items()]
    return "\n".join(["| format | read | refused | failed |", "|---|---|---|---|", *rows, ""])


def _counts(endings: Sequence[Ending]) -> dict[str, int]:
    counted = Counter(ending.outcome for ending in endings)
    return {outcome: counted[outcome] for outcome in ("read", "refused", "failed")}


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _require(true: object, otherwise: str) -> None:
    if not true:
        raise ValueError(otherwise)


if __name__ == "__main__":
    main()
