"""What nnU-Net's training needs from us: options, plan rewriting, click transforms, optimiser, trainer."""
