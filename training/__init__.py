"""The command line: run_experiment.py, evaluate.py, report.py and what they are made of."""

import os

# Before torch is loaded: threads that wait by spinning bring a run to a crawl as soon as another program wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
