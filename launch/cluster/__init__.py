"""Where jobs run: one backend a file, behind one interface."""
