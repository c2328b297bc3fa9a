"""Files, processes and command lines: what the other wings need of the machine."""
