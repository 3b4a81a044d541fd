"""Where jobs run: one backend a file (slurm, local, debug) behind one interface, `base.Cluster`."""
