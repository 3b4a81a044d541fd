"""What everybody may use: errors, files, devices, processes, settings, signals."""
