"""The packages and their folders, which pyproject.toml cannot express well, and NiiVue.

`trainers/` and `planners/` are at the top of the checkout, where users of nnU-Net expect them, and are installed as
`nnsam3d.trainers` and `nnsam3d.planners`.

The page of `nnsam3d serve` draws with NiiVue. The repository contains only its name and version; building a wheel
downloads it. Without npm the wheel is still built, and its server serves viewers but no page.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

REMAPPED = {"nnsam3d.trainers": "trainers", "nnsam3d.planners": "planners"}
PAGE = Path(__file__).resolve().parent / "nnsam3d" / "server" / "page"
STEPS = (
    ["npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"],
    ["npm", "run", "--silent", "page"],
)


class BuildPy(build_py):
    """Downloads the library of the page if it is missing. An editable install leaves that to `make page`."""

    def run(self):
        if not self.editable_mode and not (PAGE / "niivue.js").is_file():
            download_niivue()
        super().run()


def download_niivue():
    """Prints why and continues if it cannot."""
    if shutil.which("npm") is None:
        print("nnsam3d: npm is not installed: built without the page of `nnsam3d serve`", file=sys.stderr)
        return
    for step in STEPS:
        done = subprocess.run(step, cwd=PAGE, check=False)
        if done.returncode:
            print(f"nnsam3d: {' '.join(step[:2])} failed: built without the page of `nnsam3d serve`", file=sys.stderr)
            return


setup(
    packages=[*find_packages(include=["nnsam3d", "nnsam3d.*"]), *REMAPPED],
    package_dir=REMAPPED,
    cmdclass={"build_py": BuildPy},
)
