"""Files that somebody made to do harm: settings, checkpoints, arrays, scans and names of files.

Each is given to the verb that reads it. It holds if the file is refused with one message, or passed over for a sound
one; if nothing in it was run, nothing was written elsewhere, no control character reaches the terminal, and the answer
comes within a minute.
"""

import gzip
import io
import json
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image

from attempts import TINY, Attempt, Copy, Ended, call, mended, predict, refused, train

MARK = "was_run"
"""The file that hostile code makes where the program was called."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Evil:
    """An object whose pickle runs a command when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        """What pickle calls."""
        return os.system, (f"touch {MARK}",)


def hostile_files() -> Iterator[Attempt]:
    """All of them."""
    kinds = (
        settings_files,
        plans_and_splits,
        descriptions,
        checkpoints,
        arrays,
        volumes,
        pictures,
        detached,
        file_names,
    )
    for kind in kinds:
        yield from kind()


def unharmed(holds: Callable[[Copy, Ended], bool]) -> Callable[[Copy, Ended], bool]:
    """As `holds`, and nothing was run, and no control character was said."""

    def both(copy: Copy, ended: Ended) -> bool:
        clean = not (copy.root / MARK).exists() and CONTROL.search(ended.said) is None
        return clean and "Traceback" not in ended.said and holds(copy, ended)

    return both


# Settings

LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 10)
)
SETTINGS: dict[str, bytes] = {
    "a command": f"training: !!python/object/apply:os.system ['touch {MARK}']".encode(),
    "a command in new": f"!!python/object/new:os.system ['touch {MARK}']".encode(),
    "a module": b"training: !!python/module:os",
    "a name": b"training: !!python/name:os.system",
    "an unknown tag": b"training: !evil {steps: 3}",
    "a billion laughs": LAUGHS.encode(),
    "a billion laughs as steps": LAUGHS.encode() + b"training: {steps: *a9}",
    "a list that holds itself": b"training: &a [*a]",
    "a mapping that holds itself": b"training: &a {steps: *a}",
    "nested deep": b"[" * 20_000,
    "a long number": b"training: {steps: " + b"9" * 5000 + b"}",
    "a date that is none": b"training: {steps: 2026-99-99}",
    "two documents": b"training: {steps: 1}\n---\ntraining: {steps: 2}",
    "bytes that are no text": b"training: {steps: \xff\xfe\xfa}",
    "NUL": b"training: {steps: 1}\0",
    "control characters": b'"\\e[2J\\e[31m": 1',
    "a key that turns around": '"turned\u202egnp": 1'.encode(),
    "markup": b'"[/red]": 1',
    "a path as method": b"method: {name: ../../evil}",
    "an infinite fall of the rate": b"training: {power: -.inf}",
    "a rate that is no number": b"training: {learning_rate: .nan}",
    "a negative size": b"plan: {size: [-32, 32]}",
}


def settings_files() -> Iterator[Attempt]:
    """YAML that a colleague sent."""
    for name, content in SETTINGS.items():
        harm = partial(put, name="hostile.yaml", content=content)
        # the plan is made later than the file is read, and names its setting
        word = "size" if name == "a negative size" else r"hostile\.yaml"
        named = unharmed(refused(word))
        yield Attempt(f"settings: {name}", harm, named, train_by_file)


def put(copy: Copy, name: str, content: bytes) -> None:
    """A file beside the data."""
    (copy.root / name).write_bytes(content)


def train_by_file(copy: Copy, option: str = "--config", name: str = "hostile.yaml") -> Ended:
    """Train with the settings, plan or split in the file."""
    given = [part for each in TINY for part in ("--set", each)] if option != "--config" else []
    return call("train", str(copy.root / "data"), "-o", str(copy.root / "new"), option, str(copy.root / name), *given)


def plans_and_splits() -> Iterator[Attempt]:
    """Files that are given to --plan and --split."""
    plans = {
        "a command": SETTINGS["a command"],
        "huge": b"size: [99999999, 99999999]\ndimensions: 2",
        "a list": b"[]",
        "nested deep": b"{a: " * 20_000,
    }
    splits = {
        "paths": b'{"labeled": ["../../etc/passwd"], "unlabeled": [], "validation": ["/etc"], "test": []}',
        "control characters": b'{"labeled": ["\\u001b[2J"], "unlabeled": [], "validation": ["b"], "test": []}',
        "numbers": b'{"labeled": [1e999], "unlabeled": {}, "validation": null, "test": 3}',
        "nested deep": b"[" * 200_000,
    }
    for option, files in (("--plan", plans), ("--split", splits)):
        for name, content in files.items():
            file = "hostile" + (".yaml" if option == "--plan" else ".json")
            act = partial(train_by_file, option=option, name=file)
            harm = partial(put, name=file, content=content)
            yield Attempt(f"{option.strip('-')}: {name}", harm, unharmed(refused("hostile")), act)


def descriptions() -> Iterator[Attempt]:
    """The dataset.json of a data set, which is looked into for the layout before it is read."""
    for name, content in {
        "nested deep": b"[" * 20_000,
        "labels nested deep": b'{"channel_names": {"0": "MRI"}, "labels": ' + b"[" * 20_000,
        "a long number": b'{"channel_names": {"0": "MRI"}, "labels": {"background": ' + b"9" * 5000 + b"}}",
        "bytes that are no text": b"\xff\xfe\xfa",
    }.items():
        harm = partial(put, name="data/dataset.json", content=content)
        for verb, act in {"check": check, "train": train_anew, "import": import_data}.items():
            yield Attempt(f"dataset.json: {name}, {verb}", harm, unharmed(refused(r"dataset\.json|layout")), act)


def train_anew(copy: Copy) -> Ended:
    """Train on the data set, into a new run."""
    return train(copy.root / "data", copy.root / "new")


def import_data(copy: Copy) -> Ended:
    """Import the data set."""
    return call("import", str(copy.root / "data"), "-o", str(copy.root / "imported"))


# Checkpoints


def saved(content: object) -> Callable[[Copy], bytes]:
    """What torch writes of `content`."""

    def make(_: Copy) -> bytes:
        out = io.BytesIO()
        torch.save(content, out)
        return out.getvalue()

    return make


def changed(**values: object) -> Callable[[Copy], bytes]:
    """The sound checkpoint with other values."""
    return lambda copy: saved({**torch.load(copy.run.last, weights_only=True), **values})(copy)


def weights(change: Callable[[torch.Tensor], object]) -> Callable[[Copy], bytes]:
    """The sound checkpoint with other weights."""

    def make(copy: Copy) -> bytes:
        content = torch.load(copy.run.last, weights_only=True)
        content["method"] = {name: change(values) for name, values in content["method"].items()}
        return saved(content)(copy)

    return make


def zip_bomb(copy: Copy) -> bytes:
    """A checkpoint whose pickle is 300 MB of zeros in 300 KB."""
    out = io.BytesIO(saved({})(copy))
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(300 << 20) if name.endswith("data.pkl") else b"3\n")
    return out.getvalue()


CHECKPOINTS: dict[str, Callable[[Copy], bytes]] = {
    "a pickle that runs a command": lambda _: pickle.dumps(Evil()),
    "a command in torch's own file": saved({"method": Evil(), "step": 2}),
    "a command as a weight": weights(lambda _: Evil()),
    "a command beside the weights": changed(scheduler=Evil()),
    "a bomb": zip_bomb,
    "a list": saved([1, 2]),
    "no weights": saved({"method": {}, "step": 2}),
    "texts as weights": weights(lambda _: "evil"),
    "a weight that claims a terabyte": weights(lambda _: torch.zeros(1).expand(10**12)),
    "complex weights": weights(lambda values: values.to(torch.complex64) * float("nan")),
    "weights that are no numbers": weights(lambda values: values.to(torch.float32) * float("nan")),
    "a text as step": changed(step="many"),
    "cut in the middle": lambda copy: copy.run.last.read_bytes()[:5000],
    "an array": lambda _: npy((3,), bytes(24)),
    "a page": lambda _: b"<html>Not found</html>",
}


def checkpoints() -> Iterator[Attempt]:
    """In the place of last.ckpt: predict refuses them, and resume goes on from the one before."""
    for name, make in CHECKPOINTS.items():
        harm = lambda copy, make=make: copy.run.last.write_bytes(make(copy))  # noqa: E731
        yield Attempt(f"checkpoint: {name}", harm, unharmed(refused(r"last\.ckpt")), predict)
        yield Attempt(f"checkpoint: {name}, resumed", harm, unharmed(mended(r"previous\.ckpt")))
    for name, place in PLACES.items():
        harm = lambda copy, place=place: place(copy.run.last)  # noqa: E731
        yield Attempt(f"checkpoint: {name}", harm, unharmed(refused(r"last\.ckpt")), predict)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something that is no file in the place of one."""

    def place(path: Path) -> None:
        path.unlink()
        make(path)

    return place


PLACES: dict[str, Callable[[Path], None]] = {
    "a pipe": replaced(lambda path: os.mkfifo(path)),
    "a folder": replaced(lambda path: path.mkdir()),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "a link to a device": replaced(lambda path: path.symlink_to("/dev/zero")),
}


# Arrays


def npy(shape: object, data: bytes, kind: str = "'<f8'") -> bytes:
    """An array file with a header that claims `shape`."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def object_array() -> bytes:
    """An array whose element runs a command."""
    out = io.BytesIO()
    np.save(out, np.array([Evil()], dtype=object), allow_pickle=True)
    return out.getvalue()


ARRAYS: dict[str, Callable[[], bytes]] = {
    "a command": object_array,
    "a bare pickle": lambda: pickle.dumps(Evil()),
    "a call in its header": lambda: npy(f"__import__('os').system('touch {MARK}')", b""),
    "a petabyte": lambda: npy((10**15,), bytes(8)),
    "a negative shape": lambda: npy((-1, 4), bytes(8)),
    "records": lambda: npy((1,), bytes(8), "[('a', '<f8')]"),
    "an unknown version": lambda: b"\x93NUMPY\x09\x00" + bytes(200),
    "a header of 4 GB": lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
}


def arrays() -> Iterator[Attempt]:
    """In the place of a prepared image."""
    for name, make in ARRAYS.items():
        harm = lambda copy, make=make: copy.prepared("image").write_bytes(make()) and None  # noqa: E731
        yield Attempt(f"array: {name}", harm, unharmed(mended("damaged and have been prepared anew")))


# Scans


def header(**fields: object) -> Callable[[Path], None]:
    """The volume with other values in its header."""

    def spoil(path: Path) -> None:
        content = bytearray(gzip.decompress(path.read_bytes()))
        changed = nibabel.Nifti1Header(bytes(content[:348]), check=False)
        for field, value in fields.items():
            changed[field] = value
        path.write_bytes(gzip.compress(changed.binaryblock + bytes(content[348:])))

    return spoil


def nifti_bomb(path: Path) -> None:
    """A small file whose header claims 40 GB and whose content goes on for a while."""
    header(dim=[3, 20_000, 20_000, 50, 1, 1, 1, 1])(path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(200 << 20)))


VOLUMES: dict[str, Callable[[Path], object]] = {
    "40 GB": nifti_bomb,
    "negative sides": header(dim=[3, -32, 32, 4, 1, 1, 1, 1]),
    "no sides": header(dim=[3, 0, 0, 0, 1, 1, 1, 1]),
    "nine dimensions": header(dim=[9, 2, 2, 2, 2, 2, 2, 2]),
    "a grid that is no number": header(srow_x=[np.nan] * 4, sform_code=1),
    "an endless grid": header(srow_x=[np.inf, 0, 0, 0], sform_code=1),
    "an unknown type": header(datatype=999),
    "an offset beyond the end": header(vox_offset=1e30),
    "a negative offset": header(vox_offset=-1e9),
    "an endless slope": header(scl_slope=3e38, scl_inter=3e38),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "text": lambda path: path.write_bytes(b"<script>alert(1)</script>"),
}


def volumes() -> Iterator[Attempt]:
    """In the place of a labeled image."""
    for name, spoil in {**VOLUMES, **PLACES}.items():
        harm = lambda copy, spoil=spoil: spoil(copy.of("imagesTr"))  # noqa: E731
        yield Attempt(f"volume: {name}", harm, unharmed(refused(r"patient\d+")), check)


def check(copy: Copy, data: str = "data") -> Ended:
    """Look into a data set."""
    return call("check", str(copy.root / data), *(part for each in TINY for part in ("--set", each)))


def data_set(copy: Copy, ending: str, write: Callable[[Path, np.ndarray], object]) -> Path:
    """A data set of flat images in another format; the path of one of its images."""
    root = copy.root / "other"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("anna", "bert", "carl", "dora"):
        write(root / "imagesTr" / f"{name}_0000{ending}", generator.integers(0, 255, (32, 32)).astype(np.uint8))
        write(root / "labelsTr" / f"{name}{ending}", generator.integers(0, 2, (32, 32)).astype(np.uint8))
    labels = {"background": 0, "liver": 1}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(content))
    return root / "imagesTr" / f"anna_0000{ending}"


def png(width: int, height: int, data: bytes) -> bytes:
    """A picture that claims its size."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


PICTURES: dict[str, Callable[[], bytes]] = {
    "10 GB": lambda: png(100_000, 100_000, zlib.compress(bytes(1000))),
    "a bomb": lambda: png(30_000, 30_000, zlib.compress(bytes(30_001 * 3000))),
    "no sides": lambda: png(0, 0, b""),
    "no data": lambda: png(32, 32, b""),
    "a drawing": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n(/etc/passwd) (r) file\n",
}


def pictures() -> Iterator[Attempt]:
    """In the place of an image of a data set of PNG."""
    for name, make in PICTURES.items():
        harm = lambda copy, make=make: data_set(copy, ".png", save_picture).write_bytes(make())  # noqa: E731
        yield Attempt(f"picture: {name}", harm, unharmed(refused("anna")), partial(check, data="other"))


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """A PNG."""
    Image.fromarray(pixels).save(path)


NRRD = "NRRD0004\ntype: uint8\ndimension: 2\nsizes: 32 32\nencoding: raw\nspacings: 1 1\n"
META = "ObjectType = Image\nNDims = 2\nDimSize = 32 32\nElementSpacing = 1 1\nElementType = MET_UCHAR\n"
DETACHED = {
    ".nrrd": ("data file: /etc/passwd\n\n", "data file: ../../secret\n\n", "data file: LIST\n/etc/passwd\n"),
    ".mha": (
        "ElementDataFile = /etc/passwd\n",
        "ElementDataFile = ../../secret\n",
        "ElementDataFile = LIST\n/etc/passwd\n",
    ),
}


def detached() -> Iterator[Attempt]:
    """Headers that name a file elsewhere as their voxels."""
    for ending, tails in DETACHED.items():
        for tail in tails:
            harm = partial(point_elsewhere, ending=ending, tail=tail)
            name = f"header: {ending}, {' '.join(tail.split())}"
            yield Attempt(name, harm, unharmed(refused("anna")), partial(check, data="other"))


def point_elsewhere(copy: Copy, ending: str, tail: str) -> None:
    """A data set of such files, one of which names another file."""
    (copy.root / "secret").write_bytes(bytes(2048))
    start, inside = (NRRD, "\n") if ending == ".nrrd" else (META, "ElementDataFile = LOCAL\n")
    path = data_set(copy, ending, lambda path, pixels: path.write_bytes((start + inside).encode() + pixels.tobytes()))
    path.write_text(start + tail)


# Names of files

FILE_NAMES: tuple[bytes, ...] = (
    *(b"\x1b[2J\x1b[31m", b"two\nlines", b"\xc2\x9b31m", "turned\u202egnp".encode(), b"--help", b"-o", b"[red]"),
    *(b"$(touch was_run)", b";touch was_run;", b"..\\..\\up", b" ", b"", b"CON", b"no\xfftext", b"%s%n", b"a" * 240),
)


def file_names() -> Iterator[Attempt]:
    """Of a scan that is to be segmented: done or refused, and nothing lies anywhere but in the folder asked for."""
    for name in FILE_NAMES:
        harm = partial(rename, name=name)
        yield Attempt(f"file name: {name!r:.40}", harm, unharmed(stayed_inside), predict_found)


def rename(copy: Copy, name: bytes) -> None:
    """The one test scan, called otherwise."""
    folder = copy.root / "data" / "imagesTs"
    (scan,) = folder.iterdir()
    scan.rename(folder / os.fsdecode(name + b"_0000.nii.gz"))


def predict_found(copy: Copy) -> Ended:
    """Segment the test scans, without maps."""
    scans, out = str(copy.root / "data" / "imagesTs"), str(copy.root / "out")
    return call("predict", str(copy.run.root), scans, "-o", out, "--fast", "--device", "cpu")


def stayed_inside(copy: Copy, ended: Ended) -> bool:
    """There is a mask, or a reason why there is none; and no file but in the folder asked for."""
    around = {path.name for path in copy.root.iterdir()} - {"data", "run", "prepared", "out"}
    masks = list((copy.root / "out").glob("*.nii.gz"))
    return not around and (len(masks) == 1 if ended.code == 0 else ended.code in (1, 2) and not masks)
