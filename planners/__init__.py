"""nnU-Net experiment planners; installed as `nnsam3d.planners`.

Thin, like `nnsam3d.trainers`, and registered the same way by `nnsam3d link`.
"""
