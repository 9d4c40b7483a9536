"""Re-exports the baseline for nnU-Net's look-up; see SAM3DAdapterTrainer.py for why nothing else stands here."""

from nnsam3d.training.baseline import nnUNetBaselineTrainer

__all__ = ["nnUNetBaselineTrainer"]
