"""nnU-Net experiment planners; installed as `nnsam3d.planners`.

Like `nnsam3d.trainers`, the files only re-export, and are registered by `nnsam3d link`.
"""
