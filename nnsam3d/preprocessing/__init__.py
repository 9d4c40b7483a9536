"""Raw case + prompts -> network input (image channels + prompt channel)."""
