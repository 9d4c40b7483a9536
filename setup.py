"""Only what pyproject.toml cannot say well: which packages there are, in which folders they lie, and NiiVue.

`trainers/` and `planners/` stand at the top of the checkout, where somebody who knows nnU-Net looks for
them, and install as `nnsam3d.trainers` and `nnsam3d.planners`.

The page of `nnsam3d serve` draws with NiiVue, of which the repository holds the name and version only. A wheel gets it
while it is built. Without npm the wheel is built all the same; its server then serves viewers, and no page.
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
    """Brings the page's library, where it is not there yet. An editable install leaves that to `make page`."""

    def run(self):
        if not self.editable_mode and not (PAGE / "niivue.js").is_file():
            bring_page()
        super().run()


def bring_page():
    """Says so where it cannot, and goes on."""
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
