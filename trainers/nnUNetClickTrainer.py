"""Re-exports the U-Net with clicks for nnU-Net's look-up; SAM3DAdapterTrainer.py says why nothing else stands here."""

from nnsam3d.training.click_unet import nnUNetClickTrainer

__all__ = ["nnUNetClickTrainer"]
