"""The command line: run_experiment.py, evaluate.py, report.py and what they are made of."""

import os

from training.allocator import keep_freed_memory

# Before torch is loaded: threads that spin for long bring a run to a crawl as soon as another program wants a core, and
# threads that never spin halve the speed of small networks. A short spin costs neither.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Activations are large and short-lived: fetching their pages from the system anew for every layer took half the time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
keep_freed_memory()
