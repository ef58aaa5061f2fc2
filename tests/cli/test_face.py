"""What is wrong with what a verb is given is told before torch is loaded."""

import subprocess
import sys

LOADED = """
import sys
from pathlib import Path
from patchcl.cli.face import face
from patchcl.core.errors import UserError
given = [{"data": Path("scans")}, {"data": Path("foreign")}, {"data": Path("scans"), "methods": ["patchl"]}]
for each in given:
    try:
        face(each)
    except UserError as error:
        print(error)
print("torch" in sys.modules)
"""


def test_what_is_no_data_set_or_no_method_is_told_without_torch(tmp_path):
    (tmp_path / "scans").mkdir()
    for kind in ("images", "masks"):
        (tmp_path / "foreign" / kind).mkdir(parents=True)
        (tmp_path / "foreign" / kind / "anna.png").touch()
    call = [sys.executable, "-c", LOADED]
    *told, loaded = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=True).stdout.splitlines()
    assert told[0].endswith(
        "dataset.json does not exist. A data set is a folder with dataset.json, imagesTr and labelsTr, like nnU-Net's."
    )
    assert "Import it first: patchcl import foreign -o NEW_FOLDER --layout plain" in told[1]
    assert told[2].startswith("--methods names 'patchl'; choose from bcp,")
    assert loaded == "False"


def test_the_first_mistake_is_that_of_the_settings_for_which_no_file_format_is_loaded():
    given = '[{"data": Path("scans"), "settings": ["training.stepz=3"]}]'
    script = LOADED.replace("for each in given", f"for each in {given}").replace('"torch" in', '"nibabel" in')
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "training.stepz is not a setting. Did you mean training.steps?" in told
    assert told.splitlines()[-1] == "False"


def test_help_is_given_without_torch_and_without_pydantic():
    script = """
import sys
from patchcl.cli import main
sys.argv = ["patchcl", "--help"]
try:
    main()
finally:
    print([name for name in ("torch", "pydantic", "numpy") if name in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"
