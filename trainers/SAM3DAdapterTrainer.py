"""Re-exports a trainer for nnU-Net, which searches the files of a folder by class name.

The import is absolute, because through ``nnUNet_extTrainer``, nnU-Net imports this file as a top-level module. It
removes the module afterwards, so classes that are pickled or compared must not be defined here.
"""

from nnsam3d.training.trainer import SAM3DAdapterTrainer

__all__ = ["SAM3DAdapterTrainer"]
