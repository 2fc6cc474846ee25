"""Where rasters meet torch: chips, augmentation, losses, schedules, the loop."""
