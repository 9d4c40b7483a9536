"""nnU-Net finds planners by class name in the files of a folder: this one only re-exports.

Nothing else stands here, see trainers/SAM3DAdapterTrainer.py.
"""

from nnsam3d.planning.planner import SAM3DAdapterPlanner

__all__ = ["SAM3DAdapterPlanner"]
