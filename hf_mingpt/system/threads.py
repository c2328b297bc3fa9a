"""How long a thread of PyTorch on a CPU waits awake for the others. Import this module before torch.

The threads of a training step wait for each other many times. While a thread waits, libgomp, which runs them on Linux,
keeps it awake for 300,000 rounds, which an idle machine never reaches. Beside another process a thread waits for one
that has lost its core, and keeps that core busy itself. After 1,000 rounds it sleeps and frees the core: see
docs/troubleshooting.md for what this costs and gains. The results stay the same, and what the user has set takes
precedence.

Reference: GOMP_SPINCOUNT and OMP_WAIT_POLICY in the manual of libgomp.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
