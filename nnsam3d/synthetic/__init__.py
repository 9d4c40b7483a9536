"""Synthetic volumes with labelled objects, for class-agnostic training: no patient's data, any number of them."""

from nnsam3d.synthetic.case import SyntheticCase as SyntheticCase
from nnsam3d.synthetic.case import synthetic_case as synthetic_case
from nnsam3d.synthetic.scene import INSIDE as INSIDE
