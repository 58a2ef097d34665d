"""What torch, Python and the machine do around a run: threads, modes, warnings, signals, memory."""
