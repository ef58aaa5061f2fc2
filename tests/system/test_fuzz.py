"""Damaged files are refused or read truly: 200 generated and 200 real ones, and that benchmarks/fuzz.py is sharp."""

import gzip
import importlib
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FORMATS = (
    *("nii", "nii.gz", "mha", "nrrd", "png", "tif", "dicom", "dicom_seg", "gif", "webp"),
    *("h5", "npz", "rtstruct"),
)
NEEDS = {
    **{"mha": "SimpleITK", "nrrd": "SimpleITK", "h5": "h5py"},
    **{"dicom": "pydicom", "dicom_seg": "highdicom", "rtstruct": "pydicom"},
}
CASES = 25
"""Of each format."""
REAL_CASES = 200
"""Of all real files."""


class TooSlowError(BaseException):
    """Not an Exception, so that no reader can take it for a damaged file."""


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("fuzz")


@pytest.fixture
def alarm(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_refused_or_read_truly(fuzz: ModuleType, kind: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS.get(kind, "numpy"))
    sound = fuzz.write_sound(tmp_path / "sound", kind)
    fuzz.read(sound)
    endings = []
    for case in range(CASES):
        signal.alarm(fuzz.SECONDS)
        endings.append(fuzz.one_case(sound, kind, case, tmp_path / str(case)))
        signal.alarm(0)
    assert [ending for ending in endings if ending.outcome not in ("read", "refused")] == []
    assert any(ending.outcome == "refused" for ending in endings)


def test_all_formats_are_damaged_and_a_case_is_always_the_same(fuzz: ModuleType, tmp_path: Path) -> None:
    assert fuzz.FORMATS == FORMATS
    sound = fuzz.write_sound(tmp_path / "sound", "nii")
    before = sound.image.read_bytes(), sound.mask.read_bytes()
    for place in ("first", "second"):
        fuzz.one_case(sound, "nii", 3, tmp_path / place)
    (first,), (second,) = ((tmp_path / place).iterdir() for place in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() not in before
    assert (sound.image.read_bytes(), sound.mask.read_bytes()) == before


@pytest.mark.parametrize("kind", ["nii.gz", "png"])
def test_what_is_read_despite_a_wrong_checksum_is_a_failure(
    fuzz: ModuleType, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = fuzz.write_sound(tmp_path / "sound", kind)
    assert fuzz.checksums_hold(sound.image)
    monkeypatch.setattr(fuzz, "damaged", lambda content, _: (content[:-16] + bytes(8) + content[-8:], "spoilt"))
    assert fuzz.one_case(sound, kind, 0, tmp_path / "refused").outcome == "refused"
    monkeypatch.setattr(fuzz, "read", lambda _: None)
    assert fuzz.one_case(sound, kind, 0, tmp_path / "read").outcome == "failed"


@pytest.mark.parametrize("error", [MemoryError(), KeyError("x"), ValueError("the shape is wrong")])
def test_any_other_error_is_a_failure(
    fuzz: ModuleType, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    sound = fuzz.write_sound(tmp_path / "sound", "nii")
    monkeypatch.setattr(fuzz, "read", fail)
    ending = fuzz.one_case(sound, "nii", 0, tmp_path / "case")
    assert ending.outcome == "failed"
    assert type(error).__name__ in ending.what


def test_what_was_read_is_looked_at(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = fuzz.write_sound(tmp_path / "sound", "nii")
    monkeypatch.setattr(fuzz, "read_mask", lambda *_: np.zeros((8, 7, 3), np.uint8))
    with pytest.raises(ValueError, match="the shape is not what the header claims"):
        fuzz.read(sound)
    monkeypatch.setattr(fuzz, "read_mask", lambda *_: np.full((8, 7, 4), 3))
    with pytest.raises(ValueError, match="the mask holds what is no class"):
        fuzz.read(sound)


def test_a_reader_that_never_ends_is_stopped(alarm: None) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(TooSlowError):
        time.sleep(5)


def test_damage_behind_a_checksum_leaves_the_checksum_right(fuzz: ModuleType, tmp_path: Path) -> None:
    packed = fuzz.write_sound(tmp_path / "packed", "nii.gz").image
    before = gzip.decompress(packed.read_bytes())
    for case in range(20):
        packed.write_bytes(fuzz.damaged_behind(packed.read_bytes(), np.random.default_rng(case))[0])
        assert fuzz.checksums_hold(packed)
    assert gzip.decompress(packed.read_bytes()) != before

    archive = fuzz.write_sound(tmp_path / "archive", "npz").image
    sound = archive.read_bytes()
    for case in range(10):
        archive.write_bytes(fuzz.damaged_behind(sound, np.random.default_rng(case))[0])
        assert fuzz.checksums_hold(archive)
    archive.write_bytes(sound[:90] + bytes([sound[90] ^ 1]) + sound[91:])
    assert not fuzz.checksums_hold(archive)

    drawn = fuzz.write_sound(tmp_path / "drawn", "png").image
    content = bytearray(drawn.read_bytes())
    content[20] ^= 1  # the width, whose chunk has a sum of its own
    drawn.write_bytes(content)
    assert not fuzz.checksums_hold(drawn)
    drawn.write_bytes(fuzz._with_sums(bytes(content)))
    assert fuzz.checksums_hold(drawn)


def test_what_is_found_of_real_files_lies_beside_what_was_made_up(fuzz: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "fuzz.json"
    fuzz.keep_result(path, {"cases": 1, "command": "fuzz.py --real /home/somebody/data"}, Path("/home/somebody/data"))
    fuzz.keep_result(path, {"cases": 2}, None)
    fuzz.keep_result(path, {"cases": 3, "command": "fuzz.py --real /home/me/data"}, Path("/home/me/data"))
    assert json.loads(path.read_text()) == {"cases": 2, "real": {"cases": 3, "command": "fuzz.py --real DATA"}}


@pytest.mark.realdata
@pytest.mark.usefixtures("alarm")
@pytest.mark.filterwarnings("ignore")
def test_damaged_real_files_are_refused_or_read_truly(fuzz: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    root = Path(__file__).parents[3] / "shared" / "data"
    if not root.is_dir():
        pytest.skip("the data sets are not here")
    sources = fuzz.real_seeds(root)
    for name, seeds in sources.items():
        endings = []
        for case in range(math.ceil(REAL_CASES / len(sources))):
            signal.alarm(fuzz.SECONDS)
            endings.append(fuzz.one_case(seeds[case % len(seeds)], name, case, tmp_path / f"{name}-{case}"))
            signal.alarm(0)
        assert [ending for ending in endings if ending.outcome not in ("read", "refused")] == []
