"""nnU-Net finds trainers by class name in the files of a folder: this one only re-exports.

Absolute import on purpose: through ``nnUNet_extTrainer`` nnU-Net imports this file as a top-level module and
evicts it afterwards, so nothing that is pickled or compared may live here.
"""

from nnsam3d.training.trainer import SAM3DAdapterTrainer

__all__ = ["SAM3DAdapterTrainer"]
