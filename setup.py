"""The packages and their folders, which pyproject.toml cannot express well, and NiiVue.

`trainers/` and `planners/` are at the top of the checkout, where users of nnU-Net expect them, and are installed as
`nnsam3d.trainers` and `nnsam3d.planners`.

The page of `nnsam3d serve` draws with NiiVue. The repository contains only its name and version; building a wheel
downloads it. Without npm the wheel is still built, and its server serves viewers but no page.

Where GitHub builds, the page of the package on an index links to the repository: README's picture and links,
which are relative in the checkout, become absolute ones of the same commit or tag.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

REMAPPED = {"nnsam3d.trainers": "trainers", "nnsam3d.planners": "planners"}
ROOT = Path(__file__).resolve().parent
PAGE = ROOT / "nnsam3d" / "server" / "page"
STEPS = (
    ["npm", "ci", "--ignore-scripts", "--omit=optional", "--omit=dev", "--no-audit", "--no-fund"],
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


def repository():
    """Its address, and the tag or commit, if GitHub builds; else two empty strings."""
    name, server = os.environ.get("GITHUB_REPOSITORY"), os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    is_tag = os.environ.get("GITHUB_REF_TYPE") == "tag"
    version = os.environ.get("GITHUB_REF_NAME" if is_tag else "GITHUB_SHA", "main")
    return (f"{server}/{name}", version) if name else ("", "")


def readme(address, version):
    """README.md for a package index: without an address, as it is."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if not address:
        return text
    text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:|#)", rf"\g<1>{address}/raw/{version}/", text)
    text = re.sub(r"((?<!!)\[[^\]]*\]\()(?!\w+:|#)", rf"\g<1>{address}/blob/{version}/", text)
    return text.replace("<this repository>", address)


def urls(address, version):
    """The links of the package's page."""
    pages = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}
    links = {name: f"{address}/blob/{version}/{page}" for name, page in pages.items()}
    return {"Repository": address, "Issues": f"{address}/issues", **links} if address else {}


setup(
    long_description=readme(*repository()),
    long_description_content_type="text/markdown",
    project_urls=urls(*repository()),
    packages=[*find_packages(include=["nnsam3d", "nnsam3d.*"]), *REMAPPED],
    package_dir=REMAPPED,
    cmdclass={"build_py": BuildPy},
)
