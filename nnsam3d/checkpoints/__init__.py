"""Files of weights: SAM's published ones found, downloaded and verified; any of them opened without running code."""
