"""Re-exports a planner for nnU-Net, which searches the files of a folder by class name.

See trainers/SAM3DAdapterTrainer.py.
"""

from nnsam3d.planning.planner import SAM3DAdapterPlanner

__all__ = ["SAM3DAdapterPlanner"]
