"""Does patchcl hold when runs are killed, disks are full, somebody tampers, or files are damaged or made to do harm?

    python benchmarks/attack.py            # all of it, about 20 minutes on one core
    python benchmarks/attack.py --quick    # a few of each part but the full disks, about 15 seconds
    python benchmarks/attack.py --parts names damage

A small run is trained once. Each attempt gets a copy of it and of its data, does its harm, and calls a verb as a user
would. It holds if the verb does what is right: refuses with exit code 2 and one message that names what is wrong, or
goes on to weights that are the same to the last bit and says what it mended. A traceback, an exit code of 0 where
something is wrong, or a control character on the terminal is a fall. Counts go to results/attack.json, and from there
to docs/reliability.md with benchmarks/document.py. Kills and full disks are in kills.py, hostile files in
hostile_files.py.
"""

import argparse
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from pathlib import Path

import nibabel
import numpy as np
import torch
import yaml

from attempts import METHOD, TINY, Attempt, Copy, Ended, call, mended, predict, refused, train
from hostile_files import check, hostile_files
from kills import can_mount, full_disks, kills_by_operation, kills_by_time
from patchcl.core.files import write_json
from patchcl.data.splits import load_split, save_split
from patchcl.demo.phantom import write_cardiac
from patchcl.runs.provenance import origin

RESULTS = Path(__file__).parent / "results" / "attack.json"
QUICK = {
    **{"kills by time": 48, "kills by file operation": 192, "tampering": 8, "damage": 8},
    **{"processes": 3, "hostile files": 20, "names": 16},
}
"""One in so many attempts is made of each part, but no full disk: each needs a process that loads everything anew."""


# Ways to do harm


def flip(path: Path, keep_time: bool = False) -> None:
    """Other voxels on the same grid, at the time of before if that is asked for."""
    image, stat = nibabel.load(path), path.stat()
    voxels = np.asarray(image.dataobj)[::-1].copy()
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), path)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def edit(path: Path, key: str, value: object) -> None:
    """Set a dotted key of a YAML file."""
    tree = yaml.safe_load(path.read_text())
    *groups, leaf = key.split(".")
    below = tree
    for group in groups:
        below = below[group]
    below[leaf] = value
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def swap_sides(copy: Copy) -> None:
    """A labeled and a validation patient change places, under a hash that fits."""
    split = load_split(copy.run.split)
    ours, theirs = (split.validation[0], *split.labeled[1:]), (split.labeled[0], *split.validation[1:])
    save_split(copy.run.split, split.model_copy(update={"labeled": ours, "validation": theirs}))


def rename_class(copy: Copy) -> None:
    """In dataset.json, under the feet of the run."""
    path = copy.root / "data" / "dataset.json"
    path.write_text(path.read_text().replace('"LV"', '"ventricle"'))


def one_bit(content: bytes) -> bytes:
    """The content with one bit of its last voxels turned."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[bytes], bytes]:
    """A change of the array that a file holds."""

    def damage(content: bytes) -> bytes:
        out = io.BytesIO()
        np.save(out, change(np.load(io.BytesIO(content))), allow_pickle=True)
        return out.getvalue()

    return damage


def tampering() -> Iterator[Attempt]:
    """What is changed between stop and resume must be named and refused, and accepted only when asked for."""
    files = [("imagesTr", "labeled"), ("labelsTr", "labeled"), ("imagesTr", "validation"), ("labelsTr", "validation")]
    for folder, side in [*files, ("imagesUn", "unlabeled")]:
        for keep in (False, True):
            name = f"{side} file in {folder} replaced" + ", time as it was" * keep
            harm = lambda copy, folder=folder, side=side, keep=keep: flip(copy.of(folder, side), keep)  # noqa: E731
            yield Attempt(name, harm, refused(rf"{folder}/\S+ was replaced"))
            accepted = lambda copy, ended, folder=folder: (  # noqa: E731
                ended.code == 0 and f"{folder}/" in copy.run.provenance.read_text()
            )
            yield Attempt(f"{name}, accepted", harm, accepted, lambda copy: copy.resume("--accept-changes"))
    yield Attempt("labeled mask removed", lambda c: c.of("labelsTr").unlink(), refused(r"labelsTr/\S+ is gone"))
    yield Attempt(
        "unlabeled image removed", lambda c: c.of("imagesUn", "unlabeled").unlink(), refused(r"imagesUn/\S+ is gone")
    )
    yield Attempt("classes renamed", rename_class, refused("classes were"))
    yield Attempt("sides of the split swapped", swap_sides, refused("the split"))
    for key, value in {
        **{"training.seed": 7, "training.labeled_per_batch": 3, "training.validate_every": 1, "training.log_every": 1},
        **{"method.teacher_decay": 0.5, "augment.rotate_degrees": 1.0, "training.steps": 9},
        **{"training.learning_rate": 0.5, "training.optimizer": "sgd", "training.power": 0.1},
        **{"training.weight_decay": 0.1, "network.features": [4, 16], "training.precision": "bf16-mixed"},
    }.items():
        harm = lambda copy, key=key, value=value: edit(copy.run.settings, key, value)  # noqa: E731
        yield Attempt(f"{key} edited", harm, refused(rf"{key.rpartition('.')[2]}\S* was .*, now"))
    for key, value in {"normalise": "z_score", "size": [16, 16], "input_interpolation": "nearest"}.items():
        harm = lambda copy, key=key, value=value: edit(copy.run.plan, key, value)  # noqa: E731
        yield Attempt(f"plan: {key} edited", harm, refused(rf"plan: {key}\S* was .*, now"))
    for key, value in {"network.features": [4, 16], "training.optimizer": "sgd"}.items():

        def unknown(copy: Copy, key: str = key, value: object = value) -> None:
            copy.run.contents.unlink()
            edit(copy.run.settings, key, value)

        yield Attempt(f"{key} edited, hashes removed", unknown, refused(r"last\.ckpt does not fit"))
    yield from under_many_runs()


def under_many_runs() -> Iterator[Attempt]:
    """The same for a comparison and for folds that were begun, and for `train` called again with other settings."""
    one = ("--methods", "supervised", "--seeds", "0", "--labeled", "2")
    compare = lambda copy: call("compare", *many(copy), *one)  # noqa: E731
    folds = lambda copy: call("train", *many(copy), *METHOD[:2], "--folds", "2", "--fold", "0")  # noqa: E731
    for name, act, said in (("comparison", compare, "the scans or masks of"), ("folds", folds, r"{}/\S+ was replaced")):
        for folder in ("imagesTr", "labelsTr"):

            def harm(copy: Copy, act: Callable[[Copy], Ended] = act, folder: str = folder) -> None:
                if (began := act(copy)).code:
                    raise RuntimeError(began.said)
                flip(copy.of(folder), keep_time=True)

            yield Attempt(f"labeled file in {folder} replaced under a {name}", harm, refused(said.format(folder)), act)
    for option, value in {"--seed": "7", "--steps": "9", "--set": "training.learning_rate=0.5"}.items():
        again = lambda copy, option=option, value=value: train(  # noqa: E731
            copy.root / "data", copy.run.root, "--resume-if-there", option, value
        )
        yield Attempt(f"train --resume-if-there, other {option}", lambda _: None, refused(r"was .*, now"), again)


def many(copy: Copy) -> tuple[str, ...]:
    """Data, folder and settings of many runs."""
    settings = (part for each in TINY for part in ("--set", each))
    return (str(copy.root / "data"), "-o", str(copy.root / "many"), "--device", "cpu", *settings)


def damage() -> Iterator[Attempt]:
    """Prepared files and files of the run that a disk or an editor spoiled."""
    for kind in ("image", "mask", "signature"):
        for name, change in {
            "a bit": one_bit,
            "a zeroed tail": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
            "cut": lambda content: content[:-40],
            "empty": lambda content: b"",
            "another shape": array(lambda values: values[:1]),
            "another type": array(lambda values: values.astype(np.float64)),
            "NaN": array(lambda values: np.full(values.shape, np.nan, np.float32)),
            "objects": array(lambda values: values.astype(object)),
        }.items():

            def spoil(copy: Copy, kind: str = kind, change: Callable[[bytes], bytes] = change) -> None:
                path = copy.prepared(kind)
                path.write_bytes(change(path.read_bytes()))

            yield Attempt(f"prepared {kind}: {name}", spoil, mended("damaged and have been prepared anew"))
    deep, long = "[" * 20_000, "9" * 5000
    for file, texts, holds in (
        ("log_jsonl", ("\0garbage\n", '{"hello": 1}\n', "[1]\n", long + "\n", deep + "\n"), mended("begun anew")),
        ("provenance", ("", "[]", "null", '{"seconds": "long"}', deep, long), mended("Trained 2 steps")),
        ("split", ("[]", "", "{}", '{"hash": 1}', deep, long, "null"), refused(r"split\.json cannot be read")),
        ("settings", ("[]", "a: [", deep, f"a: {long}", "a: 2026-99-99", "training: 3"), refused(r"settings\.yaml")),
        ("plan", ("[]", "a: [", deep, f"size: {long}", "size: [0]"), refused(r"plan\.yaml")),
        ("contents", ("", "[]", "{}", deep), refused(r"contents\.json cannot be read")),
    ):
        for number, text in enumerate(texts, start=1):
            harm = lambda copy, file=file, text=text: getattr(copy.run, file).write_text(text)  # noqa: E731
            yield Attempt(f"{file} of the run: text {number}", harm, holds)


HOLD = """
import sys, pathlib
from patchcl.runs.writer import one_writer
with one_writer(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def beside(act: Callable[[Copy], Ended], kill: bool = False) -> Callable[[Copy], Ended]:
    """Do something while another process writes into the run, or after it was killed."""

    def both(copy: Copy) -> Ended:
        command = [sys.executable, "-c", HOLD, copy.run.root]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            try:
                if other.stdout is None or other.stdout.readline() != "held\n":
                    return Ended(-1, "the other process could not begin")
                if kill:
                    other.send_signal(signal.SIGKILL)
                    other.wait()
                return act(copy)
            finally:
                other.kill()

    return both


def processes() -> Iterator[Attempt]:
    """One writer a run, readers always."""

    def nothing(_: Copy) -> None:
        pass

    told, well = refused(r"hands of process \d+ on \S+"), mended("")
    yield Attempt("resume beside a writer", nothing, told, beside(lambda copy: copy.resume()))
    yield Attempt("resume after a killed writer", nothing, well, beside(lambda copy: copy.resume(), kill=True))
    yield Attempt(
        "train beside a writer", nothing, told, beside(lambda copy: train(copy.root / "data", copy.root / "run"))
    )
    for verb in ("evaluate", "report"):
        act = lambda copy, verb=verb: call(verb, str(copy.run.root), *REPORT[verb])  # noqa: E731
        yield Attempt(f"{verb} beside a writer", nothing, well, beside(act))
    yield Attempt("predict beside a writer", nothing, well, beside(predict))


REPORT = {"evaluate": (), "report": ("-o", "report.html")}
REFUSED_NAMES = ("mean", " Mean ", "", "  ", "\x1b[2J", "a\nb", "\x9b31m", "turned\u202egnp", "=1+1", "@sum", "x" * 300)
SAFE_NAMES = (
    *("[/red]", "[bold]", '"><script>alert(1)</script>', "NCR/NET", "../../up", "a\\b", "C:aux", "$\\frac{$"),
    *("Ödem ±", "{{ 7 * 7 }}", "50%", "*?", "'; DROP TABLE", "心室"),
)


def names() -> Iterator[Attempt]:
    """A class with a hostile name is refused at the door, or goes through all verbs without harm."""
    for name in REFUSED_NAMES:
        yield Attempt(f"class {name[:20]!r}", naming(name), refused("labels holds names that cannot be"), check)
    for name in SAFE_NAMES:
        yield Attempt(f"class {name!r}", naming(name), lambda copy, ended: harmless(copy, ended), all_verbs)


def naming(name: str) -> Callable[[Copy], None]:
    """Call the last class so."""

    def harm(copy: Copy) -> None:
        path = copy.root / "data" / "dataset.json"
        content = json.loads(path.read_text())
        labels = [key for key in content["labels"] if key != "LV"]
        content["labels"] = {key: value for value, key in enumerate([*labels, name])}
        path.write_text(json.dumps(content))

    return harm


def all_verbs(copy: Copy) -> Ended:
    """Check, train, evaluate, predict and report; the worst exit code, and all that was said."""
    shutil.rmtree(copy.run.root)
    ended = [check(copy), train(copy.root / "data", copy.root / "run")]
    ended += [call(verb, str(copy.run.root), *REPORT[verb]) for verb in ("evaluate", "report")] + [predict(copy)]
    return Ended(next((each.code for each in ended if each.code), 0), "".join(each.said for each in ended))


def harmless(copy: Copy, ended: Ended) -> bool:
    """All went well, every map is where it belongs, and neither page nor terminal was got at."""
    page = (copy.root / "report.html").read_text() if ended.code == 0 else "<script>"
    maps = sorted(path.name for path in (copy.root / "out").rglob("*_probabilities_*"))
    scans = len(list((copy.root / "data" / "imagesTs").iterdir()))
    return len(maps) == 3 * scans and "<script" not in page and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", ended.said)


PARTS: dict[str, Callable[[], Iterator[Attempt]]] = {
    "kills by time": kills_by_time,
    "kills by file operation": kills_by_operation,
    "full disks": lambda: full_disks() if can_mount() else iter(()),
    "tampering": tampering,
    "damage": damage,
    "processes": processes,
    "hostile files": hostile_files,
    "names": names,
}


def attack(parts: Sequence[str], quick: bool = False) -> dict[str, object]:
    """Make the attempts of `parts`; the counts, and what fell with all it said."""
    counts, fallen, started = {}, [], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="patchcl-attack-") as folder:
        base = Path(folder)
        write_cardiac(base / "data", labeled=3, unlabeled=2, test=1, side=48, seed=1)
        began = train(base / "data", base / "run")
        if began.code:
            raise RuntimeError(began.said)
        for part in parts:
            attempts = list(PARTS[part]())[:: QUICK[part] if quick else 1]
            falls = [fall for attempt in attempts if (fall := made(attempt, base)) is not None]
            counts[part] = {"attempts": len(attempts), "held": len(attempts) - len(falls)}
            fallen += [{"part": part, **fall} for fall in falls]
            print(f"{part}: {counts[part]['held']} of {counts[part]['attempts']} held", flush=True)
    return {"seconds": round(time.perf_counter() - started), "counts": counts, "fallen": fallen}


def made(attempt: Attempt, base: Path) -> dict[str, object] | None:
    """Nothing if the attempt was held; else its name, the exit code and what was said."""
    copy = Copy(base / "copy")
    for part in ("data", "run", "prepared"):
        shutil.copytree(base / part, copy.root / part)
    settings = copy.run.settings
    settings.write_text(settings.read_text().replace(str(base), str(copy.root)))
    try:
        attempt.harm(copy)
        with chdir(copy.root):
            ended = attempt.act(copy)
        if attempt.holds(copy, ended):
            return None
        return {"name": attempt.name, "code": ended.code, "said": ended.said.replace(str(base), "")[-2000:]}
    finally:
        shutil.rmtree(copy.root)


def main() -> None:
    """Make the attempts, and keep the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help=f"a few attempts of {', '.join(QUICK)}")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    chosen = [part for part in arguments.parts if part in QUICK] if arguments.quick else arguments.parts
    result = attack(chosen, arguments.quick)
    write_json(arguments.out, {**origin(torch.device("cpu")), **result})
    sys.exit(1 if result["fallen"] else 0)


if __name__ == "__main__":
    main()
