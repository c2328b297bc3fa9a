"""What the other wings need from the machine: files, processes, signals and command lines."""
