"""Re-exports the baseline for nnU-Net's lookup; see SAM3DAdapterTrainer.py."""

from nnsam3d.training.baseline import nnUNetBaselineTrainer

__all__ = ["nnUNetBaselineTrainer"]
