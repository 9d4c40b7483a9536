"""The packages and their folders, which pyproject.toml cannot express well.

`trainers/` and `planners/` are at the top of the checkout, where users of nnU-Net expect them, and are installed as
`nnsam3d.trainers` and `nnsam3d.planners`.
"""

from setuptools import find_packages, setup

REMAPPED = {"nnsam3d.trainers": "trainers", "nnsam3d.planners": "planners"}

setup(
    packages=[*find_packages(include=["nnsam3d", "nnsam3d.*"]), *REMAPPED],
    package_dir=REMAPPED,
)
