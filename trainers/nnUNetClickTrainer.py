"""Re-exports the U-Net with clicks for nnU-Net's lookup; see SAM3DAdapterTrainer.py."""

from nnsam3d.training.click_unet import nnUNetClickTrainer

__all__ = ["nnUNetClickTrainer"]
