"""What a dashboard is made of.

In the order of a run: monitor.py is what a run tells; links.py says where to look; snapshots.py takes copies, worker.py
hands them to a thread; board.py decides what is written when: curves.py (traces, acceptance), looks.py and scores.py
(convergence, pooling), texts.py, layout.py (which curves stand together), figures.py (of what; panels.py and
checkpanels.py draw them on a sheet.py), closing.py and loo.py (at the end: how well the model predicts). records.py
writes TensorBoard's files, earlier.py reads those of an earlier run.
"""
