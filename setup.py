"""Only what pyproject.toml cannot say well: which packages there are and in which folders they lie.

`trainers/` and `planners/` stand at the top of the checkout, where somebody who knows nnU-Net looks for
them, and install as `nnsam3d.trainers` and `nnsam3d.planners`.
"""

from setuptools import find_packages, setup

REMAPPED = {"nnsam3d.trainers": "trainers", "nnsam3d.planners": "planners"}

setup(
    packages=[*find_packages(include=["nnsam3d", "nnsam3d.*"]), *REMAPPED],
    package_dir=REMAPPED,
)
